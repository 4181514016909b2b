"""Layers of real models, coarse sketches of what they give, and the first one that departs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from manifest.golden.layers import MOST_LAYERS, first_divergence, layer_distance, layer_paths, sketched, watched


@pytest.mark.parametrize(
    ("make", "expected", "count"),
    [
        (partial(timm.create_model, "resnet18"), {"conv1", "bn1", "layer1.0", "layer4.1", "fc"}, 11),
        (
            partial(timm.create_model, "vit_tiny_patch16_224"),
            {"patch_embed.proj", "blocks.0", "blocks.11", "norm", "head"},
            15,
        ),
        (torchvision.models.convnext_tiny, {"features.0", "features.1.0", "features.7.2", "classifier.2"}, None),
        (lambda: nn.Linear(3, 4), set(), 0),
        (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), {"0", "2"}, 2),
    ],
    ids=["resnet", "vit", "convnext", "alone", "sequence"],
)
def test_layers_are_blocks_and_what_lies_outside_of_them(
    make: Callable[[], nn.Module], expected: set[str], count: int | None
) -> None:
    with torch.device("meta"):
        paths = layer_paths(make())
    assert expected <= set(paths)
    assert not any(other.startswith(f"{path}.") for path in paths for other in paths)
    assert count is None or len(paths) == count


def test_a_model_of_very_many_layers_has_no_more_than_a_record_has_room_for() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3 * MOST_LAYERS)))
    assert len(layer_paths(model)) == MOST_LAYERS
    assert layer_paths(model)[0] == "0"


@example(1, 3474551)
@given(st.integers(1, 5000), st.integers(0, 2**31))
def test_distance_of_sketches_estimates_the_distance_of_tensors(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    one, noise = torch.randn(size, generator=generator), torch.randn(size, generator=generator)
    noise *= 1e-3 * one.norm() / noise.norm()  # of few numbers it may else be smaller than the digits that are recorded
    estimated = layer_distance(sketched("x", one), sketched("x", one + noise))
    exact = float(noise.norm() / one.norm())
    assert 0.3 * exact <= estimated <= 2.5 * exact


def test_sketch_is_the_same_however_the_tensor_lies_in_memory() -> None:
    tensor = torch.randn(7, 300, 5, generator=torch.Generator().manual_seed(0))
    turned = tensor.transpose(0, 2).contiguous().transpose(0, 2)
    assert sketched("x", tensor) == sketched("x", turned)
    assert sketched("x", tensor).norm == pytest.approx(float(tensor.norm()), rel=1e-5)


def test_estimates_are_unbiased_over_many_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    zero = sketched("x", torch.zeros(3000))
    ratios = []
    for _ in range(200):
        tensor = torch.randn(3000, generator=generator)
        sketch = sketched("x", tensor)
        ratios.append(float(np.mean(np.asarray(sketch.sketch) ** 2)) / sketch.norm**2)
    assert zero.norm == 0
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)


class Tuples(nn.Module):
    """Layers whose outputs are no plain tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.mapping, self.pair, self.whole = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"out": self.whole(self.pair(self.mapping(x)))}


def test_hooks_are_gone_afterwards_even_when_the_model_fails() -> None:
    model = Tuples()
    with pytest.raises(RuntimeError), watched(model):
        model(torch.zeros(3))
    assert not any(child._forward_hooks for child in model.modules())
    with watched(model) as seen:
        model(torch.zeros(1, 2))
    assert list(seen) == ["mapping", "pair", "whole"]


def test_the_first_layer_to_depart_is_the_one_that_was_changed() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), watched(model) as before:
        model(images)
    recorded = list(before.values())
    assert first_divergence(recorded, before, 1e-9) is None
    with torch.no_grad():
        model.layer2[1].bn2.weight[0] += 1  # zero, as timm begins the last norm of a block
    with torch.no_grad(), watched(model) as after:
        model(images)
    departure = first_divergence(recorded, after, 1e-6)
    assert departure is not None
    assert departure[0].module == "layer2.1"
    assert 1e-6 < departure[1] < 1
    missing = first_divergence(recorded, {}, 1e-6)
    assert missing is not None
    assert (missing[0].module, missing[1]) == ("conv1", math.inf)

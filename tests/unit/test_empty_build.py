"""A module without its weights: no memory for parameters, real buffers, and nobody else disturbed."""

from __future__ import annotations

import copy
import random
import threading

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn

from manifest.families.meta_build import without_weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


def test_parameters_are_on_the_meta_device_with_their_shapes_and_types() -> None:
    with without_weights():
        empty = nn.TransformerEncoderLayer(16, 2, dtype=torch.bfloat16)
    real = nn.TransformerEncoderLayer(16, 2, dtype=torch.bfloat16)
    assert all(parameter.is_meta for parameter in empty.parameters())
    expected = [(name, p.shape, p.dtype, p.requires_grad) for name, p in real.named_parameters()]
    assert [(name, p.shape, p.dtype, p.requires_grad) for name, p in empty.named_parameters()] == expected


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "efficientnet_b1_pruned"],
)
def test_buffers_are_those_of_a_normal_build(name: str) -> None:
    with without_weights():
        empty = timm.create_model(name, pretrained=False)
    real = timm.create_model(name, pretrained=False)
    expected = dict(real.named_buffers())
    found = dict(empty.named_buffers())
    assert found.keys() == expected.keys()
    assert all(not buffer.is_meta and torch.equal(buffer, expected[key]) for key, buffer in found.items())


def test_attention_mask_of_a_clip_is_real() -> None:
    with without_weights():
        empty = open_clip.CLIP(
            embed_dim=16,
            vision_cfg={"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
            text_cfg={"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
        )
    assert torch.equal(empty.attn_mask, torch.full((8, 8), float("-inf")).triu(1))


def test_copies_made_inside_have_parameters_without_values_and_buffers_with_theirs() -> None:
    with without_weights():
        norm = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
        norm[1].running_var.fill_(2.0)
        copied = copy.deepcopy(norm)
    assert copied[0].weight.is_meta
    assert torch.equal(copied[1].running_var, torch.full((3,), 2.0))


def test_generators_are_left_as_they_were() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with without_weights():
        timm.create_model("vit_tiny_patch16_224", pretrained=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


def test_modules_that_another_thread_builds_meanwhile_are_normal() -> None:
    built: list[nn.Linear] = []
    with without_weights():
        other = threading.Thread(target=lambda: built.append(nn.Linear(8, 8)))
        other.start()
        other.join()
        mine = nn.Linear(8, 8)
    assert mine.weight.is_meta
    assert not built[0].weight.is_meta
    assert built[0].weight.abs().sum() > 0


def test_modules_built_afterwards_are_normal_even_when_building_failed() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), without_weights():
        raise RuntimeError("on purpose")
    assert not nn.Linear(2, 2).weight.is_meta


def test_tied_parameters_stay_tied() -> None:
    with without_weights():
        empty = Tied()
    assert empty.head.weight is empty.embedding.weight
    assert empty.head.weight.is_meta
    assert len(list(empty.parameters())) == 1

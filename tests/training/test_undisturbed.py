"""A training that is recorded comes to the very weights, statistics and random numbers of one that is not."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from manifest.training.recording import recording
from tests.sampling import sampled

SCRIPTS = Path(__file__).parent / "scripts"


def plain() -> tuple[nn.Module, tuple[int, ...]]:
    return importlib.import_module("own_networks").Perceptron(16, dropout=0.3), (16, 8)


def convolutional() -> tuple[nn.Module, tuple[int, ...]]:
    return timm.create_model("test_resnet", num_classes=3, drop_path_rate=0.2, drop_rate=0.2), (4, 3, 64, 64)


def half_frozen() -> tuple[nn.Module, tuple[int, ...]]:
    """In train mode but for a part that is frozen and in eval mode, as fine-tuning has it."""
    model: Any = timm.create_model("test_resnet", num_classes=3)
    for parameter in model.layer1.parameters():
        parameter.requires_grad_(False)
    model.layer1.eval()
    return model, (4, 3, 64, 64)


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All that a save could disturb, down to the generators."""
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "optimizer": [value.clone() for each in optimizer.state.values() for value in each.values()],
        "gradients": [None if each.grad is None else each.grad.clone() for each in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "frozen": [each.requires_grad for each in model.parameters()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        "draws": (torch.rand(3), random.random(), np.random.rand(3)),
        "threads": torch.get_num_threads(),
        "settings": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled("cpu")),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def trained(
    make: Callable[[], tuple[nn.Module, tuple[int, ...]]], place: Path, around: Any, precision: Any
) -> dict[str, Any]:
    """Some steps with a save after each of two, in the middle of an epoch and of autocast."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    with around:
        model, shape = make()
        average = AveragedModel(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(4):
            with precision():
                loss = model(torch.randn(shape)).float().square().mean()
                loss.backward()
                if step % 2:
                    saved = {"model": model.state_dict(), "average": average.module.state_dict(), "step": step}
                    torch.save(saved, place / f"{step}.pt")
            optimizer.step()
            average.update_parameters(model)
            if step < 3:
                optimizer.zero_grad()
        return state_of(model, optimizer)


@contextlib.contextmanager
def half_precision() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@pytest.mark.parametrize(
    ("make", "precision"),
    sampled(
        itertools.product([half_frozen, plain, convolutional], [half_precision, contextlib.nullcontext]),
        3,
        map("-".join, itertools.product(["half frozen", "plain", "convolutional"], ["autocast", "fp32"])),
    ),
)
def test_a_recorded_training_is_the_same_to_the_bit(
    make: Any, precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in ("alone", "recorded"):
        (tmp_path / name).mkdir()
    alone = trained(make, tmp_path / "alone", contextlib.nullcontext(), precision)
    recorder = recording()
    recorded = trained(make, tmp_path / "recorded", recorder, precision)
    assert sorted(path.name for path in (tmp_path / "recorded").glob("*.json")) == [
        "1.pt.manifest.json",
        "3.pt.manifest.json",
    ]
    assert same(alone, recorded)


def test_a_compiled_training_is_not_compiled_again(tmp_path: Path) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        del inputs
        compiled.append(graph)
        return graph.forward

    with recording() as recorder:
        model = timm.create_model("test_resnet", num_classes=3)
        model.compile(backend=backend)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            model(torch.ones(2, 3, 64, 64)).square().mean().backward()
            optimizer.step()
            once = len(compiled)
            torch.save(model.state_dict(), tmp_path / f"{step}.pt")
            assert len(compiled) == once
    assert len(compiled) == 1
    assert len(recorder.described) == 3

"""Operators on the meta device that are not run again: their results look as they do when they are run."""

from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from torch import nn

from manifest.fingerprints import meta_results, structure
from manifest.fingerprints.meta_results import run_on_meta
from manifest.fingerprints.structure import Recorder, trace_operators

MODELS = (
    "test_vit",
    "test_resnet",
    "test_convnext",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "gcvit_xxtiny",
)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(meta_results, "_known", {})


def images(size: int) -> torch.Tensor:
    return torch.empty(2, 3, size, size, device="meta")


@pytest.mark.parametrize("name", MODELS)
def test_operators_when_remembered_then_are_those_that_run(name, monkeypatch):
    with torch.device("meta"):
        model = timm.create_model(name)
    size = model.pretrained_cfg["input_size"][-1]
    first, again = (trace_operators(model, lambda ghost: ghost(images(size))) for _ in range(2))
    assert meta_results._known
    monkeypatch.setattr(structure, "run_on_meta", lambda operator, args, kwargs: operator(*args, **kwargs))
    assert first == again == trace_operators(model, lambda ghost: ghost(images(size)))


def test_results_when_remembered_then_look_as_those_that_were_computed():
    model = open_clip.create_model("ViT-B-32", device="meta")
    text = torch.zeros(2, 77, dtype=torch.long, device="meta")
    seen: list[list[tuple]] = []

    class Seen(Recorder):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = super().__torch_dispatch__(func, types, args, kwargs)
            tensors = [each for each in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(each)]
            seen[-1].append((str(func), [(each.shape, each.stride(), each.dtype, each.device) for each in tensors]))
            return result

    ghost = structure.on_meta(model)
    for _ in range(2):
        seen.append([])
        with torch.no_grad(), Seen():
            ghost(images(224), text)
    assert seen[0] == seen[1]
    assert len(seen[0]) > 1000


def test_operator_when_its_tensors_have_values_then_runs_each_time():
    layer, recorder = nn.LayerNorm(8), Recorder()
    inputs = [torch.randn(2, 8), torch.randn(2, 8)]
    with torch.no_grad(), recorder:
        outputs = [layer(each) for each in inputs]
    assert recorder.operators == ["aten.native_layer_norm.default"] * 2
    assert torch.equal(outputs[1], layer(inputs[1]))
    assert not meta_results._known


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (torch.ops.aten.add_.Tensor, [torch.empty(2, device="meta"), torch.empty(2, device="meta")]),
        (torch.ops.aten.view.default, [torch.empty(2, device="meta"), [2, 1]]),
        (torch.ops.aten.empty.memory_format, [[2, 2]]),
        (torch.ops.aten.split.Tensor, [torch.empty(4, device="meta"), 2]),
    ],
)
def test_operator_when_not_a_pure_function_of_tensors_then_is_not_remembered(operator, args):
    run_on_meta(operator, args, {})
    assert not meta_results._known


def test_arguments_when_equal_and_of_other_kinds_then_are_told_apart():
    tensor = torch.empty(2, dtype=torch.int64, device="meta")
    results = [run_on_meta(torch.ops.aten.mul.Scalar, [tensor, each], {}).dtype for each in (1, 1.0, True)]
    assert results == [torch.int64, torch.float32, torch.int64]


def test_memory_when_it_is_full_then_begins_anew(monkeypatch):
    monkeypatch.setattr(meta_results, "_MOST", 3)
    for size in range(5):
        run_on_meta(torch.ops.aten.relu.default, [torch.empty(size, device="meta")], {})
    assert len(meta_results._known) == 2

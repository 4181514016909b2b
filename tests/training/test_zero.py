"""DeepSpeed's ZeRO: what it writes is described, or left alone with what to do instead."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import manifest
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording
from tests.warm import warm_run


def partitioned(model: nn.Module) -> dict[str, torch.Tensor]:
    """Leave a model as ZeRO-3 of DeepSpeed 0.19 does, which notes these names, and return its weights."""
    whole = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.ds_shape, parameter.ds_tensor = parameter.shape, parameter.detach().clone()  # type: ignore[attr-defined]
        parameter.data = torch.empty(0)
    for number, module in enumerate(model.modules()):
        vars(module).update(
            ds_id=number,
            _external_params={},
            _original_parameters=dict(module._parameters),
            ds_external_parameters=lambda: (),
            all_parameters=lambda: (),
            ds_recompute_parameters=set(),
            pre_bwd_fn=object,
            post_bwd_fn=object,
            ds_grads_remaining=0,
            applied_pre_backward_ref_cnt=0,
        )
        module.register_forward_hook(lambda *_: pytest.fail("only all processes together can ask the model"))
    return whole


@pytest.fixture
def zero(monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[nn.Module, dict[str, torch.Tensor]]]:
    """Makes a trained model that is partitioned; linear layers of the process compute otherwise meanwhile, as there."""

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        product = x.matmul(weight.t())
        return product if bias is None else product + bias

    def make() -> tuple[nn.Module, dict[str, torch.Tensor]]:
        model = timm.create_model("test_vit", num_classes=3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        monkeypatch.setattr(functional, "linear", linear)
        return model, partitioned(model)

    return make


def test_whole_weights_are_described_by_the_model_that_they_were_gathered_from(
    zero: Callable[..., Any], tmp_path: Path
) -> None:
    with recording() as recorder:
        model, whole = zero()
        torch.save(whole, tmp_path / "pytorch_model.bin")
        del model
    assert not recorder.failed
    record = read_manifest(tmp_path / "pytorch_model.bin")
    assert (record.architecture.family, record.architecture.name) == ("timm", "test_vit")
    assert record.golden
    report = manifest.verify(tmp_path / "pytorch_model.bin")
    assert report.passed
    assert {found.rule for found in report.findings()} == {"T002"}


def test_partitioned_weights_get_no_manifest_and_are_told_of(zero: Callable[..., Any], tmp_path: Path) -> None:
    said = re.escape("80 of its 80 tensors are empty") + ".*save_16bit_model"
    with pytest.warns(manifest.NoManifestWarning, match=said), recording() as recorder:
        model, _ = zero()
        torch.save(model.state_dict(), tmp_path / "empty.pt")
        torch.save({"module": model.state_dict(), "ds_version": "0.19"}, tmp_path / "zero_pp_rank_0_model_states.pt")
    assert [path.name for path, _ in recorder.failed] == ["empty.pt"]
    assert not list(tmp_path.glob("*.manifest.json"))


def test_save_of_a_partitioned_model_is_refused(zero: Callable[..., Any], tmp_path: Path) -> None:
    model, _ = zero()
    with pytest.raises(
        manifest.ArchitectureError, match=r"a\.pt would be empty; write the whole with `engine\.save_16"
    ):
        manifest.save(model, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


TRAIN = """
    import sys, deepspeed, timm, torch
    stage = int(sys.argv[-1])
    model = timm.create_model("test_vit", num_classes=3)
    zero = {"stage": stage, "stage3_param_persistence_threshold": 0, "stage3_gather_16bit_weights_on_model_save": True}
    optimizer = {"type": "Adam", "params": {"lr": 1e-3, "torch_adam": True}}
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={"train_batch_size": 4, "optimizer": optimizer, "zero_optimization": zero},
    )
    for _ in range(3):
        loss = engine(torch.randn(4, 3, 160, 160)).square().mean()
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint("out", tag="last")
    engine.save_16bit_model("whole")
"""


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_files_of_deepspeed_itself(stage: int, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(dedent(TRAIN))
    command = ["-m", "manifest", "run", "--", sys.executable, "-m", "deepspeed.launcher.runner"]
    done = warm_run(
        [*command, "--num_accelerators", "1", "train.py", str(stage)],
        tmp_path,
        {**os.environ, "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done
    described = {path.name.removesuffix(".manifest.json") for path in tmp_path.rglob("*.manifest.json")}
    assert described == {"pytorch_model.bin", *(["mp_rank_00_model_states.pt"] if stage < 3 else [])}
    for name in described:
        (path,) = tmp_path.rglob(name)
        assert manifest.verify(path).passed

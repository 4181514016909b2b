"""A download that was cut: a stretch of the file is zero, and what is there is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

import manifest
from manifest.schema.report import Report, Severity

State = dict[str, torch.Tensor]


def trained() -> State:
    torch.manual_seed(0)
    state = timm.create_model("test_vit", num_classes=3).state_dict()
    return {name: value + torch.randn_like(value) * 0.02 for name, value in state.items()}


def written(state: State, path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def holes(report: Report) -> list[str]:
    return [each.message for each in report.findings() if each.rule == "C007" and each.severity is Severity.ERROR]


@pytest.mark.parametrize(("start", "end"), [(0.5, 1.0), (0.3, 0.8), (0.1, 1.0)], ids=["half", "middle", "most"])
def test_file_when_a_stretch_of_it_is_zero_then_audit_fails_and_says_where(
    start: float, end: float, tmp_path: Path
) -> None:
    path = written(trained(), tmp_path / "cut.safetensors")
    content = bytearray(path.read_bytes())
    first, last = int(len(content) * start), int(len(content) * end)
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    report = manifest.audit(path)
    (message,) = holes(report)
    assert report.exit_code == 1
    assert message.startswith("Bytes ")
    assert "of cut.safetensors are zero" in message
    assert message.endswith("were never written.")


def test_stretch_of_zeros_is_found_under_a_wrapper_s_prefix(tmp_path: Path) -> None:
    path = written({f"module.{name}": value for name, value in trained().items()}, tmp_path / "cut.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)
    assert holes(manifest.audit(path))


def test_closed_layers_side_by_side_when_audited_then_are_no_hole(tmp_path: Path) -> None:
    # As ControlNet begins: convolutions of zeros, without a norm among them.
    closed = {f"zero_convs.{index}.{leaf}": torch.zeros(16, 16) for index in range(12) for leaf in ("weight",)}
    report = manifest.audit(written(trained() | closed, tmp_path / "closed.safetensors"))
    assert holes(report) == []


def test_weights_that_are_whole_when_audited_then_have_no_hole(tmp_path: Path) -> None:
    report = manifest.audit(written(trained(), tmp_path / "whole.safetensors"))
    assert (report.exit_code, holes(report)) == (0, [])


def test_weights_that_are_zero_throughout_when_audited_then_are_no_hole(tmp_path: Path) -> None:
    state = {name: torch.zeros_like(value) for name, value in trained().items()}
    assert holes(manifest.audit(written(state, tmp_path / "zero.safetensors"))) == []

"""What lies beside weights in the folder of a training: passed over, unless loading it would run something."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.checks.safety import Safety
from manifest.errors import InputError, NoWeightsError
from manifest.schema.report import Outcome
from tests.conftest import Answer


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


class _OfNobody:
    """A class that no catalogue knows."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `transformers.Trainer` and DeepSpeed leave them."""
    model = nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    torch.save({"base_lrs": [0.1], "last_epoch": 3}, tmp_path / "scheduler.pt", _use_new_zipfile_serialization=False)
    flat = torch.zeros(20)
    zero = {"optimizer_state_dict": {"single_partition_of_fp32_groups": [flat]}, "ds_version": "0.16"}
    torch.save(zero, tmp_path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return tmp_path


def test_folder_whose_files_are_no_weights_passes(folder: Path, run: Callable[..., Answer]) -> None:
    said = run("audit", folder)
    assert said.code == 0, said
    assert said.out.count("holds no weights, and is passed over") == 3
    assert said.out.startswith("–")
    assert "3 of 3 pass" in said.out


def test_file_that_is_named_and_holds_no_weights_fails(folder: Path, run: Callable[..., Answer]) -> None:
    said = run("audit", folder / "optimizer.pt", folder / "scheduler.pt")
    assert said.code == 1
    lines = said.out.splitlines()
    assert sum(line.startswith("✘") and line.endswith("F001 not-a-checkpoint") for line in lines) == 2
    with pytest.raises(NoWeightsError, match=r"^optimizer\.pt: it holds no weights"):
        manifest.create(folder / "optimizer.pt", "ViT-B-32")


@pytest.mark.parametrize(
    ("value", "code", "outcome"), [(_Runs(), 1, Outcome.FAIL), (_OfNobody(), 0, Outcome.WARN)], ids=["runs", "unknown"]
)
def test_file_beside_weights_that_would_run_something_is_told(
    value: Any, code: int, outcome: Outcome, folder: Path
) -> None:
    path = folder / "optimizer.pt"
    torch.save({"lr": value}, path)
    report = manifest.audit(path, named=False)
    assert report.exit_code == code
    assert report.rungs[0].outcome is outcome
    assert report.safety is Safety.UNSAFE
    assert [found.rule for found in report.findings()] == ["F010"]


def test_file_beside_weights_that_cannot_be_read_fails(folder: Path) -> None:
    (folder / "optimizer.pt").write_bytes(b"not a checkpoint")
    report = manifest.audit(folder / "optimizer.pt", named=False)
    assert (report.exit_code, report.safety) == (1, Safety.UNREADABLE)
    with pytest.raises(InputError):
        manifest.audit(folder / "nothing.pt", named=False)

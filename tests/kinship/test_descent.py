"""`verify` holds the parents on record to their own manifests, where these lie beside the checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.schema.report import Outcome, Severity
from manifest.storage.sidecars import Sidecars


@pytest.fixture
def place(tmp_path: Path, digits_model: nn.Module) -> Path:
    """`base.pt`, and `child.pt` that was loaded from it and moved a little."""
    manifest.save(digits_model, tmp_path / "base.pt", golden=False)
    model = manifest.load(tmp_path / "base.pt")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    manifest.save(model, tmp_path / "child.pt", golden=False)
    return tmp_path


def strange(model: nn.Module) -> nn.Module:
    """The same with all of its matrices from somewhere else."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(0.05 * torch.randn_like(weight))
    return model


def refuted(path: Path) -> list[str]:
    report = manifest.verify(path, fast=True)
    assert all(rung.outcome is not Outcome.FAIL for rung in report.rungs)
    return [f"{found.severity}: {found.message}" for found in report.findings() if found.rule == "I005"]


def test_parent_that_weights_started_from_is_not_refuted(place: Path) -> None:
    assert refuted(place / "child.pt") == []


def test_parent_that_has_nothing_in_common_with_them_is_refuted(place: Path, run: Callable[..., Any]) -> None:
    manifest.save(strange(manifest.load(place / "base.pt")), place / "child.pt", golden=False)
    (found,) = refuted(place / "child.pt")
    assert found.startswith(
        f"{Severity.WARNING}: The manifest says that the weights started from base.pt, and they have nothing in common"
    )
    answer = run("verify", "child.pt", "--fast")
    assert answer.code == 0
    assert "warning I005 parent-refuted  provenance.parents" in answer.out
    assert "manifest relate --against FOLDER CKPT" in answer.out


def test_parent_is_not_judged_by_another_file_of_its_name(place: Path) -> None:
    manifest.save(strange(manifest.load(place / "base.pt")), place / "other.pt", golden=False)
    shutil.copy(Sidecars(place / "other.pt").manifest, Sidecars(place / "base.pt").manifest)
    assert refuted(place / "child.pt") == []


@pytest.mark.parametrize("name", ["../base.pt", "a\x00b", "x" * 5000, "nowhere.pt", ""])
def test_name_of_a_parent_leads_nowhere_else(name: str, place: Path) -> None:
    path = Sidecars(place / "child.pt").manifest
    content = json.loads(path.read_text())
    content["provenance"]["parents"][0]["name"] = name
    path.write_text(json.dumps(content))
    assert refuted(place / "child.pt") == []

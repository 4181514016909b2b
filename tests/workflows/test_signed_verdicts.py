"""Whether components were trained: as the signer recorded it, where that is enough, and from the values elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

import manifest
from manifest.schema.report import Report
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars

AS_SIGNED = "as the signer recorded"


@pytest.fixture
def excused(digits: Any, tmp_path: Path) -> tuple[Path, Path]:
    """A model whose text tower is fresh, under a signed manifest that says it was trained; and the signer's key."""
    torch.manual_seed(0)
    fresh = open_clip.create_model(digits.MODEL).state_dict()
    trained = load_file(digits.WEIGHTS)
    state = {name: fresh[name] if name.startswith(digits.TEXT_TOWER) else kept for name, kept in trained.items()}
    path = tmp_path / "half.safetensors"
    save_file(state, path)
    manifest.create(path, digits.MODEL, partial=["text_tower", "text_projection"], golden=False)
    record = Sidecars(path).manifest
    content = json.loads(record.read_text())
    for part in content["components"]:
        part.update(by_design=False, training="trained" if part["training"] == "initialised" else part["training"])
    record.write_text(json.dumps(content))
    private, public = generate_keys(tmp_path / "release")
    manifest.sign(path, key=private)
    return path, public


def completeness(report: Report) -> Any:
    return next(rung for rung in report.rungs if rung.name == "completeness")


def codes(report: Report) -> set[str]:
    return {finding.rule for finding in report.findings()}


def test_fast_verify_by_the_signers_key_takes_the_recorded_verdicts(excused: tuple[Path, Path]) -> None:
    path, public = excused
    report = manifest.verify(path, key=public, fast=True)
    assert completeness(report).reason.endswith(AS_SIGNED)
    assert "C003" not in codes(report)


def test_whole_verify_by_the_signers_key_reads_the_values(excused: tuple[Path, Path]) -> None:
    path, public = excused
    report = manifest.verify(path, key=public)
    assert AS_SIGNED not in completeness(report).reason
    assert "C003" in codes(report)


def test_fast_verify_without_a_key_reads_the_values(excused: tuple[Path, Path]) -> None:
    report = manifest.verify(excused[0], fast=True)
    assert AS_SIGNED not in completeness(report).reason
    assert "C003" in codes(report)


def test_fast_verify_of_changed_bytes_reads_the_values(excused: tuple[Path, Path]) -> None:
    path, public = excused
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    report = manifest.verify(path, key=public, fast=True)
    assert AS_SIGNED not in completeness(report).reason
    assert {"I002", "C003"} <= codes(report)

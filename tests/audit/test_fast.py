"""Audits by samples: what is odd throughout a tensor is told, and a file of any size is audited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.schema.report import Report
from tests.large import memory, sparse_file, sparse_tensors

SHAPE = (512, 256)
"""Of tensors that are large: half a megabyte."""


def messages(report: Report, rule: str) -> list[str]:
    return [found.message for found in report.findings() if found.rule == rule]


def file_of(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


def test_file_when_larger_than_memory_then_is_mapped_and_audited(tmp_path, run):
    path = sparse_file(tmp_path / "large.safetensors", 2 * memory())
    with open_checkpoint(path) as stored:
        assert stored.files.size > memory()
    ended = run("audit", "--fast", path)
    assert ended.code == 0
    assert "large tensors by samples" in ended.out
    assert "zero wherever it was looked at" in " ".join(ended.out.split())


def test_terabyte_in_200_shards_is_audited_by_its_names_and_samples(tmp_path: Path) -> None:
    """The shards take no room on the disk; reading a hundredth of them would take minutes."""
    shape, places = (32_768, 8_192), {}
    for shard in range(200):
        name = f"model-{shard + 1:05}-of-00200.safetensors"
        sparse_tensors(tmp_path / name, {f"model.blocks.{10 * shard + part}.weight": shape for part in range(10)})
        places |= {f"model.blocks.{10 * shard + part}.weight": name for part in range(10)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with open_checkpoint(tmp_path) as stored:
        assert stored.size > 10**12
    report = manifest.audit(tmp_path, fast=True)
    assert "2,000 tensors" in report.rungs[0].reason
    assert {found.rule for found in report.findings()} == {"A010", "C007"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_when_not_finite_then_samples_tell_of_many_and_not_of_one(value: float, tmp_path):
    torch.manual_seed(0)
    many, one = torch.randn(SHAPE), torch.randn(SHAPE)
    many[:, ::2] = value
    one[300, 100] = value
    norm = torch.ones(16)
    norm[3] = value
    path = file_of(tmp_path / "a.safetensors", **{"a.weight": many, "b.weight": one, "norm.weight": norm})
    sampled = messages(manifest.audit(path, fast=True), "C006")
    assert [said.split()[0] for said in sampled] == ["norm.weight", "a.weight"]
    assert "values that are not finite among the 2,048 that were looked at" in sampled[1]
    whole = {said.split()[0] for said in messages(manifest.audit(path), "C006")}
    assert whole == {"a.weight", "b.weight", "norm.weight"}


def test_tensors_when_equal_then_only_a_whole_audit_says_so(tmp_path):
    torch.manual_seed(0)
    large, small = torch.randn(SHAPE), torch.randn(64, 64)
    path = file_of(
        tmp_path / "a.safetensors",
        **{"a.weight": large, "b.weight": large.clone(), "c.weight": small, "d.weight": small.clone()},
    )
    assert messages(manifest.audit(path, fast=True), "C008") == ["c.weight and d.weight have the same values."]
    assert len(messages(manifest.audit(path), "C008")) == 2


def test_tensor_when_constant_then_says_where_it_was_looked_at(tmp_path):
    constant = {"a.weight": torch.full(SHAPE, 0.5), "b.weight": torch.full((9, 9), 2.0)}
    path = file_of(tmp_path / "a.safetensors", **constant)
    said = messages(manifest.audit(path, fast=True), "C007")
    assert said == ["a.weight is 0.5 wherever it was looked at.", "b.weight is 2 throughout."]


def test_verdicts_when_by_samples_then_are_those_of_a_whole_audit(digits):
    whole, fast = manifest.audit(digits.WEIGHTS), manifest.audit(digits.WEIGHTS, fast=True)
    assert fast.components == whole.components
    assert fast.exit_code == whole.exit_code
    assert list(fast.findings()) == list(whole.findings())

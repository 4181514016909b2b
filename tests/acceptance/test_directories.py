"""Checkpoints of several files: described, signed, verified and loaded like one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as dcp

import manifest
from manifest.signing import generate_keys

Run = Callable[..., Any]


@pytest.fixture
def folder(digits: Any, run: Run, tmp_path: Path) -> Path:
    """The digits CLIP in two shards with an index, described and signed."""
    place = tmp_path / "clip"
    place.mkdir()
    state = load_file(digits.WEIGHTS)
    weight_map = {name: "model-00001-of-00002.safetensors" for name in state if name.startswith("visual.")}
    weight_map |= {name: "model-00002-of-00002.safetensors" for name in state if name not in weight_map}
    for file in set(weight_map.values()):
        save_file({name: state[name] for name in state if weight_map[name] == file}, place / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    generate_keys(tmp_path / "release")
    config = digits.HERE / "digits-clip.json"
    answer = run("create", "clip", "--model", digits.MODEL, "--model-config", config, "--key", "release.key")
    assert answer.code == 0, answer.err
    return place


def test_directory_when_described_then_has_its_sidecars_inside(folder: Path) -> None:
    recorded = json.loads((folder / "manifest.json").read_bytes())
    assert [file["path"] for file in recorded["checkpoint"]["files"]] == [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert recorded["checkpoint"]["container"] == "safetensors"
    assert (folder / "model.sig").is_file()


def test_directory_when_intact_then_verifies_and_loads(folder: Path, run: Run, digits_model: Any) -> None:
    answer = run("verify", "clip", "--key", "release.pub")
    assert answer.code == 0, answer.out
    model: Any = manifest.load(folder)
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.encode_image(pictures), digits_model.eval().encode_image(pictures))


def test_directory_when_named_by_a_dot_then_its_name_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    report = manifest.verify(".", fast=True)
    assert (report.subject, report.passed) == ("clip", True)


def test_directory_when_one_shard_changes_then_its_tensors_are_named(folder: Path, run: Run) -> None:
    shard = folder / "model-00002-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    answer = run("verify", "clip", "--fast")
    assert answer.code == 1
    assert "I002 tensors-changed" in answer.out


def test_directory_when_a_shard_is_missing_then_it_is_named(folder: Path, run: Run) -> None:
    (folder / "model-00002-of-00002.safetensors").unlink()
    answer = run("verify", "clip", "--fast")
    assert answer.code == 1
    assert "F008 file-missing" in answer.out
    assert "model-00002-of-00002.safetensors" in answer.out


@pytest.mark.usefixtures("folder")
def test_directory_when_signed_by_another_key_too_then_both_hold(run: Run, tmp_path: Path) -> None:
    generate_keys(tmp_path / "other")
    assert run("sign", "clip", "--key", "other.key").code == 0
    assert run("verify", "clip", "--fast", "--key", "other.pub").code == 0
    assert run("verify", "clip", "--fast", "--key", "release.pub").code == 0


def test_distributed_checkpoint_when_described_then_verifies(digits: Any, run: Run, tmp_path: Path) -> None:
    state = load_file(digits.WEIGHTS)
    dcp.save({"model": state, "optim": {"step": torch.tensor(1)}}, checkpoint_id=tmp_path / "step-9")
    config = digits.HERE / "digits-clip.json"
    answer = run("create", "step-9", "--model", digits.MODEL, "--model-config", config)
    assert answer.code == 0, answer.err
    recorded = json.loads((tmp_path / "step-9" / "manifest.json").read_bytes())
    whole = json.loads(digits.WEIGHTS.with_name(f"{digits.WEIGHTS.name}.manifest.json").read_bytes())
    assert recorded["checkpoint"]["container"] == "dcp"
    assert recorded["checkpoint"]["state"]["path"] == ["model"]
    assert recorded["weights"]["digest"] == whole["weights"]["digest"]
    assert run("verify", "step-9").code == 0


def test_average_when_described_then_its_path_is_on_record_and_verified(digits: Any, run: Run, tmp_path: Path) -> None:
    state = load_file(digits.WEIGHTS)
    noise = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"model": noise, "model_ema": state}, tmp_path / "both.pt")
    config = digits.HERE / "digits-clip.json"
    answer = run("create", "both.pt", "--model", digits.MODEL, "--model-config", config, "--state", "model_ema")
    assert answer.code == 0, answer.err
    recorded = json.loads((tmp_path / "both.pt.manifest.json").read_bytes())
    assert recorded["checkpoint"]["state"]["path"] == ["model_ema"]
    assert recorded["checkpoint"]["extras"] == ["model"]
    assert run("verify", "both.pt").code == 0

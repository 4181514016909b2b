"""Kinship sketches in a manifest: who writes them, what is left out, and what is refused of a document."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.kinship.sketch import digest_and_sketch
from manifest.kinship.stored import read
from manifest.schema.document import Manifest, parse
from manifest.storage.sidecars import Sidecars


@pytest.fixture
def saved(tmp_path: Path, digits_model: nn.Module) -> Path:
    manifest.save(digits_model, tmp_path / "a.pt", golden=False)
    return tmp_path / "a.pt"


def manifest_of(path: Path) -> Manifest:
    return parse(Sidecars(path).manifest.read_bytes(), strict=True)


def test_sketches_of_a_manifest_are_those_of_the_file(saved: Path) -> None:
    found = read(manifest_of(saved).weights, "a")
    assert found is not None
    with open_checkpoint(saved) as stored:
        assert found.keys() == stored.tensors.keys()
        for name, tensor in stored.tensors.items():
            expected = digest_and_sketch(stored, tensor)[1]
            assert expected is not None
            assert found[name].numbers.tolist() == expected.numbers.astype(np.float32).tolist()
            assert (found[name].norm, found[name].zeros) == (pytest.approx(expected.norm, rel=1e-8), expected.zeros)


def test_tied_tensors_are_sketched_once_and_whole_numbers_not(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.other = nn.Linear(4, 4)
            self.other.weight = self.one.weight
            self.register_buffer("ids", torch.arange(3))

    torch.manual_seed(0)
    manifest.save(Net(), tmp_path / "net.pt", family="opaque", golden=False)
    weights = manifest_of(tmp_path / "net.pt").weights
    assert weights.kinship is not None
    assert weights.kinship.without == ["ids"]
    found = read(weights, "net")
    assert found is not None
    assert sorted(found) == ["one.bias", "one.weight", "other.bias"]


def test_no_sketches_are_written_where_that_is_asked(
    tmp_path: Path, digits: ModuleType, digits_model: nn.Module, run: Callable[..., Any]
) -> None:
    manifest.save(digits_model, tmp_path / "a.pt", golden=False, kinship=False)
    assert manifest_of(tmp_path / "a.pt").weights.kinship is None
    shutil.copy(digits.WEIGHTS, tmp_path / "b.safetensors")
    options = ("--model", digits.MODEL, "--no-golden", "--quiet")
    assert run("create", "b.safetensors", *options).code == 0
    assert manifest_of(tmp_path / "b.safetensors").weights.kinship is not None
    assert run("create", "b.safetensors", "--no-kinship", *options).code == 0
    assert "kinship" not in Sidecars(tmp_path / "b.safetensors").manifest.read_text()


def test_sketches_stay_when_a_checkpoint_is_converted(saved: Path) -> None:
    manifest.convert(saved, saved.with_name("b.safetensors"))
    assert manifest_of(saved.with_name("b.safetensors")).weights.kinship == manifest_of(saved).weights.kinship


@pytest.mark.whole
def test_sketches_of_a_vit_l_14_take_less_than_100_kb(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-L-14")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    written = manifest.save(model, tmp_path / "large.pt", golden=False)
    assert written is not None
    assert written.weights.kinship is not None
    assert len(written.weights.kinship.model_dump_json()) < 100_000


def numbers(weights: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(weights["kinship"]["numbers"]), "<f4").copy()


def with_numbers(weights: dict[str, Any], found: np.ndarray) -> None:
    weights["kinship"]["numbers"] = base64.b64encode(found.tobytes()).decode()


FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a number too few": lambda weights: with_numbers(weights, numbers(weights)[1:]),
    "a number that is none": lambda weights: with_numbers(weights, numbers(weights) * np.nan),
    "no base64": lambda weights: weights["kinship"].update(numbers="é!"),
    "half a number": lambda weights: weights["kinship"].update(numbers="AAA="),
    "a norm too many": lambda weights: weights["kinship"]["norms"].append(1.0),
    "a count too few": lambda weights: weights["kinship"]["zeros"].pop(),
    "more zeros than values": lambda weights: weights["kinship"]["zeros"].__setitem__(0, 1 << 40),
    "numbers of a tensor of zeros": lambda weights: weights["kinship"]["norms"].__setitem__(0, 0.0),
    "a tensor less": lambda weights: weights["kinship"].update(without=[weights["tensors"][0]["name"]]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_sketches_that_are_not_those_of_the_listed_tensors_are_refused(fault: str, saved: Path) -> None:
    content = json.loads(Sidecars(saved).manifest.read_text())
    FAULTS[fault](content["weights"])
    with pytest.raises(manifest.DocumentError, match=r"The sketches of a (.*) are not those of the tensors that"):
        read(parse(json.dumps(content).encode()).weights, "a")


def test_manifest_without_sketches_or_with_those_of_another_version_has_none(saved: Path) -> None:
    content = json.loads(Sidecars(saved).manifest.read_text())
    content["weights"]["kinship"]["version"] = 2
    assert read(parse(json.dumps(content).encode()).weights, "a") is None
    del content["weights"]["kinship"]
    assert read(parse(json.dumps(content).encode(), strict=True).weights, "a") is None

"""A checkpoint that `manifest.save` signed, checked by people who never heard of this tool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

import manifest
from manifest.signing import generate_keys


@pytest.fixture
def signed(tmp_path: Path, digits_model: nn.Module) -> Path:
    """A directory with a signed checkpoint, its sidecars, and a file that nobody signed."""
    generate_keys(tmp_path / "release")
    place = tmp_path / "model"
    place.mkdir()
    (place / "notes.txt").write_text("not signed")
    manifest.save(digits_model, place / "ckpt.pt", key=tmp_path / "release.key", golden=False)
    return place


def model_signing(place: Path) -> int:
    arguments = ["verify", "key", place, "--signature", place / "ckpt.pt.manifest.sig"]
    arguments += ["--public_key", place.parent / "release.pub", "--ignore_unsigned_files"]
    answer = subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)], capture_output=True, check=False
    )
    return answer.returncode


def test_model_signing_accepts_a_checkpoint_that_was_saved_signed(signed: Path) -> None:
    assert model_signing(signed) == 0


@pytest.mark.parametrize("name", ["ckpt.pt", "ckpt.pt.manifest.json"])
def test_model_signing_refuses_it_when_a_signed_file_changed(signed: Path, name: str) -> None:
    data = bytearray((signed / name).read_bytes())
    data[len(data) // 2] ^= 1
    (signed / name).write_bytes(data)
    assert model_signing(signed) != 0

"""Signed checkpoints to try the command line on, and file systems of a size or a mode."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.signing import generate_keys


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A directory with `ckpt.pt` and `ckpt.safetensors`, signed, and the keys."""
    place = tmp_path_factory.mktemp("saved")
    generate_keys(place / "release")
    model = manifest.load(digits.WEIGHTS, verify="none")
    for name in ("ckpt.pt", "ckpt.safetensors"):
        manifest.save(model, place / name, key=place / "release.key")
    return place


@pytest.fixture
def signed(saved: Path, tmp_path: Path) -> Path:
    """Copies of the signed checkpoints and their keys in the test's own directory."""
    for file in saved.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / "ckpt.pt"

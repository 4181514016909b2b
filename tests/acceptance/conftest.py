"""A small signed checkpoint to damage."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.signing import generate_keys

SUFFIXES = ("", ".manifest.json", ".manifest.sig")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A directory with `ckpt.pt`, saved and signed, and two pairs of keys."""
    place = tmp_path_factory.mktemp("original")
    for name in ("release", "other"):
        generate_keys(place / name)
    model = manifest.load(digits.WEIGHTS, verify="none")
    manifest.save(model, place / "ckpt.pt", key=place / "release.key")
    return place


@pytest.fixture
def signed(original: Path, tmp_path: Path) -> Path:
    """A copy of the signed checkpoint to damage; the keys lie beside it."""
    for file in original.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / "ckpt.pt"

"""Signed checkpoints to try the command line on, and file systems of a size or a mode."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
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


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes file systems of a size or a mode; where that is not allowed, the test is skipped."""
    places: list[Path] = []

    def mount(options: str, source: Path | None = None) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        what = ["-t", "tmpfs", "-o", options, "tmpfs"] if source is None else ["-o", options, "--bind", str(source)]
        try:
            done = subprocess.run(["mount", *what, str(place)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no `mount` here")
        if done.returncode:
            pytest.skip(f"this user may not mount: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=False)

"""The command line as a real process, in the test's own directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.signing import generate_keys


@dataclass(frozen=True)
class Answer:
    """What a process printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one sentence on stderr of a process that could not do what it was asked."""
        assert self.code == 2, self
        assert self.err.startswith("manifest: ")
        assert len(self.err.splitlines()) == 1
        return self.err.removeprefix("manifest: ").strip()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Answer]:
    """`manifest ARGUMENTS` with environment variables by keyword; a traceback is never an answer."""

    def call(*arguments: object, stdout: Any = subprocess.PIPE, **environment: str) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "manifest", *map(str, arguments)],
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            check=False,
            env={**os.environ, **environment},
        )
        assert "Traceback" not in (done.stdout or "") + done.stderr
        return Answer(done.returncode, done.stdout or "", done.stderr)

    return call


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

"""A git repository with real checkpoints, and the command `manifest` on the path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "fixtures" / "digits_clip" / "digits_clip.safetensors"


@dataclass(frozen=True)
class Repository:
    """A repository of git, and what its commands are run with."""

    place: Path
    environment: dict[str, str]

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.place, env=self.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self) -> str:
        """Commit everything; the commit's name."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def add_recorded(self, name: str) -> None:
        """A checkpoint with the manifest that was written for it."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(WEIGHTS, path)
        shutil.copy(f"{WEIGHTS}.manifest.json", f"{path}.manifest.json")

    def add_unsafe(self, name: str) -> None:
        """A checkpoint that would run a command."""
        path = self.place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"weight": torch.ones(2), "x": _Runs()}, path)


class _Runs:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("true",)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of a clean machine, where `manifest` is this checkout's."""
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "manifest").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m manifest "$@"\n')
    (commands / "manifest").chmod(0o755)
    person = {f"GIT_{who}_{what}": "ci@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "GIT_CONFIG_NOSYSTEM": "1",
        **person,
    }


@pytest.fixture
def repository(tmp_path: Path, environment: dict[str, str]) -> Repository:
    """With a page and a checkpoint that has a manifest, committed."""
    place = tmp_path / "repository"
    place.mkdir()
    made = Repository(place, environment)
    made.git("init", "--quiet", "--initial-branch", "main")
    (place / "README.md").write_text("Models.\n")
    made.add_recorded("models/clip.safetensors")
    made.commit()
    return made

"""What became of each save, told by every process of a command to the one that started it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = "MANIFEST_RUN"
"""The variable that names the folder where the processes of a command tell it."""

_DESCRIBED, _ALONE, _FAILED = "described", "alone", "failed"


@dataclass
class Told:
    """What the processes of a command told.

    Attributes:
        processes: How many recorded.
        described: Checkpoints that got a manifest, in the order in which they did.
        left_alone: Files that hold no model that is known, with why not.
        failed: Checkpoints that got no manifest, with why not.
    """

    processes: int = 0
    described: list[Path] = field(default_factory=list)
    left_alone: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)


class Account:
    """Where this process tells what became of its saves: to nobody, unless a command gathers it.

    Args:
        variables: The environment.
    """

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self._folder = variables.get(FOLDER)
        self._write("")

    def described(self, path: Path) -> None:
        self._tell(_DESCRIBED, path)

    def left_alone(self, path: Path, why: str) -> None:
        self._tell(_ALONE, path, why)

    def failed(self, path: Path, why: str) -> None:
        self._tell(_FAILED, path, why)

    def _tell(self, became: str, path: Path, why: str = "") -> None:
        self._write(json.dumps([became, os.fspath(path), why]) + "\n")

    def _write(self, line: str) -> None:
        if not self._folder:
            return
        own = Path(self._folder) / f"{os.getpid()}.jsonl"
        # Another machine has no such folder, and a training must go on.
        with contextlib.suppress(OSError), own.open("a", encoding="ascii") as file:
            file.write(line)


def gather(folder: Path) -> Told:
    """What all processes have told so far; a process that was killed may have left half a line."""
    told = Told()
    lines: list[list[str]] = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        told.processes += 1
        for line in path.read_text(encoding="ascii").splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
    told.described = list(dict.fromkeys(Path(path) for became, path, _ in lines if became == _DESCRIBED))
    for became, place, why in lines:
        path = Path(place)
        if became == _FAILED:
            told.failed.append((path, why))
        elif became == _ALONE and path not in told.described:
            told.left_alone.append((path, why))
    return told

"""What became of each save, told by every process of a command to the one that started it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manifest.errors import NoManifestWarning
from manifest.storage.run_record import MOST_MODELS, RUN_RECORD, MadeModel, write_run_record
from manifest.warning import warn

FOLDER = "MANIFEST_RUN"
"""The variable that names the folder where the processes of a command tell it."""

_DESCRIBED, _ALONE, _FAILED, _LOST, _MADE = "described", "alone", "failed", "lost", "made"


@dataclass
class Told:
    """What the processes of a command told.

    Attributes:
        processes: How many recorded.
        described: Checkpoints that got a manifest, in the order in which they did.
        left_alone: Files that hold no model that is known, with why not.
        failed: Checkpoints that got no manifest, with why not.
        lost: How many saves into memory are in no file that was seen.
        made: The models that were made.
    """

    processes: int = 0
    described: list[Path] = field(default_factory=list)
    left_alone: list[tuple[Path, str]] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    lost: int = 0
    made: list[MadeModel] = field(default_factory=list)


class Account:
    """Where this process tells what became of its saves: to the command that gathers it, where one does.

    Args:
        variables: The environment.
    """

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self._folder = variables.get(FOLDER)
        self._lost = 0
        self._made: dict[str, MadeModel] = {}
        self._write("")

    def end(self) -> None:
        """Say what is not known of saves, where no command gathers it.

        Warns:
            NoManifestWarning: Saves into memory are in no file that was seen.
        """
        if self._lost and not self._folder:
            warn(words_of_lost(self._lost, list(self._made.values())), NoManifestWarning)
        self._lost = 0

    def described(self, path: Path) -> None:
        self._tell(_DESCRIBED, path)

    def left_alone(self, path: Path, why: str) -> None:
        self._tell(_ALONE, path, why)

    def failed(self, path: Path, why: str) -> None:
        self._tell(_FAILED, path, why)

    def lose(self, count: int) -> None:
        """Note how many saves into memory are in no file that was seen."""
        self._lost += count
        self._write(json.dumps([_LOST, count]) + "\n")

    def note_made(self, model: MadeModel) -> None:
        """Note a model that was made, for the record of the run."""
        line = json.dumps([_MADE, model.model_dump()]) + "\n"
        if line not in self._made:
            self._made[line] = model
            self._write(line)
        while len(self._made) > MOST_MODELS:  # of a search over architectures, say
            del self._made[next(iter(self._made))]

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
    lines: list[tuple[str, list[Any]]] = []
    for path in sorted(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns):
        told.processes += 1
        for line in path.read_text(encoding="ascii").splitlines():
            with contextlib.suppress(ValueError):
                became, *rest = json.loads(line)
                lines.append((became, rest))
    told.described = list(dict.fromkeys(Path(rest[0]) for became, rest in lines if became == _DESCRIBED))
    for became, rest in lines:
        if became == _FAILED:
            told.failed.append((Path(rest[0]), rest[1]))
        elif became == _ALONE and Path(rest[0]) not in told.described:
            told.left_alone.append((Path(rest[0]), rest[1]))
        elif became == _LOST:
            told.lost += rest[0]
        elif became == _MADE:
            told.made.append(MadeModel.model_validate(rest[0]))
    return told


def words_of_lost(lost: int, made: Sequence[MadeModel]) -> str:
    """What became of saves into memory that are in no file that was seen; the record of the run is written for them.

    Args:
        lost: How many.
        made: The models that were made.
    """
    saves = f"{lost} saves into memory are" if lost > 1 else "1 save into memory is"
    return f"{saves} in no file that was seen here; {_recorded(made)}"


def words_of_none(made: Sequence[MadeModel]) -> str:
    """What to do where nothing was described and there were models; the record of the run is written."""
    return f"no save of a model was seen; {_recorded(made)}"


def _recorded(made: Sequence[MadeModel]) -> str:
    by_hand = "describe a file that holds one with `manifest create FILE --family LIBRARY --model NAME`"
    if not made:
        return by_hand
    try:
        write_run_record(Path(), made)
    except OSError as error:
        return f"{by_hand}, since {RUN_RECORD} cannot be written here ({error.strerror})"
    return f"describe a file that holds one with `manifest create FILE`, in this folder, which reads {RUN_RECORD}"

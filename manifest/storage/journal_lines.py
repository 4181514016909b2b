"""Reports of many checkpoints in a file of JSON lines, one as soon as it is made; what is there is not checked again.

A line has the checkpoint as it was checked (its path, and size and time of change of each of its files and sidecars),
what was asked of it, and its report. If one of its files was changed since, or something else is asked, it is checked
again, and the later line counts. A process that is killed leaves whole lines and at most the beginning of one, which is
cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from manifest.errors import InputError, StorageError
from manifest.escaping import printable
from manifest.schema.report import Report
from manifest.storage.sidecars import Sidecars

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

State = list[list[Any]]
"""Name, size, and time of change in nanoseconds, of each file."""


class Journal:
    """An open journal.

    Args:
        file: The file, open to be read and added to.
        asked: What is asked of each checkpoint; reports on something else do not count.

    Raises:
        InputError: It is no journal.
    """

    def __init__(self, file: IO[bytes], asked: str) -> None:
        self._file, self._asked = file, asked
        self._lines: dict[str, int] = {}
        self._read()

    def known(self, path: Path) -> Report | None:
        """The report of a checkpoint that is still as it was when it was checked, for the same question."""
        place = self._lines.get(str(path))
        if place is None:
            return None
        self._file.seek(place)
        line = json.loads(self._file.readline())
        if line["asked"] != self._asked or not line["files"] or line["files"] != state_of(path):
            return None
        report = Report.model_validate(line["report"])
        return report if report.error is None else None  # what could not be checked may be mended by now

    def add(self, path: Path, files: State, report: Report) -> None:
        """Add a report, which is in the file when this returns.

        Args:
            path: The checkpoint.
            files: What `state_of` said of it before it was checked.
            report: The report.

        Raises:
            StorageError: The disk is full.
        """
        line = {"path": str(path), "asked": self._asked, "files": files, "report": report.model_dump(mode="json")}
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            self._file.truncate(place)
            raise StorageError(f"{self._file.name} cannot be written ({error.strerror}); make room for it.") from None
        self._lines[str(path)] = place

    def _read(self) -> None:
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # of a process that was killed
            try:
                self._lines[json.loads(line)["path"]] = place
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{printable(self._file.name, 1000)} is no journal of this command; name another file."
                ) from None
            place += len(line)
        self._file.truncate(place)


@contextmanager
def opened(path: Path, asked: Sequence[object]) -> Iterator[Journal]:
    """A journal at a path, an empty one where there is none; no other process may have it.

    Args:
        path: The file.
        asked: What is asked of each checkpoint, as values whose `str` tells one question from another.

    Raises:
        InputError: It is none, or another process writes it.
        StorageError: It cannot be opened.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise StorageError(f"{path} cannot be opened ({error.strerror}); choose another place.") from None
    with file:
        try:
            if fcntl is not None:
                fcntl.lockf(
                    file, fcntl.LOCK_EX | fcntl.LOCK_NB
                )  # not inherited, unlike that of flock, by forked workers
        except OSError:
            raise InputError(f"Another process writes {path}; wait for it, or name another file.") from None
        file.seek(0)
        yield Journal(file, json.dumps([str(each) for each in asked]))


def state_of(path: Path) -> State:
    """What a checkpoint's report depends on, as far as a look at its directory tells; nothing of what is not there."""
    sidecars = Sidecars(path)
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        there = [file for file in dict.fromkeys((*files, sidecars.manifest, *sidecars.signatures)) if file.exists()]
        return [[file.name, (status := file.stat()).st_size, status.st_mtime_ns] for file in there]
    except (OSError, ValueError):  # as of a name that is too long: checking it says so
        return []

"""A journal as lines of JSON, each added when its report is there; of the lines of one checkpoint, the last counts.

A process that is killed leaves whole lines and at most the beginning of one, which is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from manifest.errors import InputError, StorageError
from manifest.escaping import printable
from manifest.schema.report import Report
from manifest.storage.states import State

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class LinesJournal:
    """An open journal, to be read and added to.

    Raises:
        InputError: The file is no journal.
    """

    def __init__(self, file: IO[bytes], asked: str) -> None:
        self._file, self._asked = file, asked
        self._places: dict[str, int] = {}
        self._read()

    def recorded(self, path: str) -> tuple[State, Report] | None:
        line = self._line(self._places[path]) if path in self._places else None
        if line is None or line["asked"] != self._asked:
            return None
        return line["files"], Report.model_validate(line["report"])

    def add(self, path: str, state: State, report: Report) -> None:
        line = {"path": path, "asked": self._asked, "files": state, "report": report.model_dump(mode="json")}
        place = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            self._file.truncate(place)
            raise StorageError(f"{self._file.name} cannot be written ({error.strerror}); make room for it.") from None
        self._places[path] = place

    def reports(self) -> Iterator[tuple[str, Report]]:
        """The last report on each checkpoint, whatever was asked."""
        for path, place in self._places.items():
            yield path, Report.model_validate(self._line(place)["report"])

    def _line(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        line: dict[str, Any] = json.loads(self._file.readline())
        return line

    def _read(self) -> None:
        place = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break  # of a process that was killed
            try:
                self._places[json.loads(line)["path"]] = place
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{printable(self._file.name, 1000)} is no journal of this command; name another file."
                ) from None
            place += len(line)
        self._file.truncate(place)


@contextmanager
def opened(path: Path, asked: str) -> Iterator[LinesJournal]:
    """A journal at a path, an empty one where there is none; no other process may have it.

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
                # Unlike the lock of `flock`, it is not inherited by forked workers.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"Another process writes {path}; wait for it, or name another file.") from None
        file.seek(0)
        yield LinesJournal(file, asked)

"""An index of sketches: one file, in which tens of thousands of sets of weights are searched at the speed of reading.

The file is 16 bytes that say what it is, the length of a header as eight bytes, the header in JSON, and rows of one
length for each set of weights; `docs/kinship.md` specifies it. Nothing in it is run, and it is read row by row. It is
replaced as a whole, so that whoever reads meanwhile has the old one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from manifest import progress
from manifest.errors import DocumentError, InputError, StorageError
from manifest.escaping import printable
from manifest.kinship.layouts import Batch, Entry, Layout, entry_of, layout_of, row_of, row_size, row_type, subject_of
from manifest.kinship.subjects import Subject
from manifest.storage.transaction import replace_file, staging
from manifest.strict_json import NotStrictError, read_object

_MAGIC = b"kinship-index/v1"
_LENGTH = 8
_ALIGNMENT = 64
_LARGEST_HEADER = 64 << 20  # bytes: 300,000 sets of weights, or a thousand different models
_LARGEST_ROW = 64 << 20  # bytes; of the largest manifest it is less
_AT_ONCE = 4 << 20
"""Bytes of rows that are in memory at once: the processor's cache, or nearly."""
_COPIED_AT_ONCE = 16 << 20


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    tensors: Layout
    entries: tuple[Entry, ...]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)

    groups: tuple[_Group, ...]


@dataclass(frozen=True)
class _Rows:
    """The rows of one layout, and where in the file they begin."""

    layout: Layout
    entries: tuple[Entry, ...]
    start: int


class Index:
    """An open index.

    Args:
        file: The file.
        name: What to call it in messages.

    Raises:
        DocumentError: It is no index, or not whole.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, printable(name)
        self.groups = tuple(self._read())

    @property
    def entries(self) -> list[Entry]:
        """All sets of weights in it."""
        return [entry for group in self.groups for entry in group.entries]

    def batches(self) -> Iterator[Batch]:
        """All sets of weights, some at a time."""
        for group in self.groups:
            for start, rows in self.rows(group, _AT_ONCE):
                entries = group.entries[start : start + len(rows)]
                yield Batch(group.layout, rows["numbers"], entries, partial(self._subject, group, start))

    def rows(self, group: _Rows, at_once: int) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
        """The rows of a group in arrays of some bytes, each with the number of its first."""
        kind = row_type(group.layout)
        size = max(1, at_once // kind.itemsize)
        for start in range(0, len(group.entries), size):
            yield start, self._rows(group, start, min(size, len(group.entries) - start))

    def _subject(self, group: _Rows, start: int, number: int) -> Subject:
        row = self._rows(group, start + number, 1)[0]
        entry = group.entries[start + number]
        found = subject_of(row, group.layout, entry._replace(name=printable(entry.name, 200)))
        if found is None:
            raise self._not_valid(f"the sketches of {printable(entry.name, 200)} are none")
        return found

    def _rows(self, group: _Rows, start: int, count: int) -> npt.NDArray[np.void]:
        kind = row_type(group.layout)
        self._file.seek(group.start + start * kind.itemsize)
        data = self._file.read(count * kind.itemsize)
        if len(data) != count * kind.itemsize:
            raise self._not_valid("it was cut while it was read")
        return np.frombuffer(data, kind)

    def _read(self) -> Iterator[_Rows]:
        size = os.fstat(self._file.fileno()).st_size
        beginning = self._file.read(len(_MAGIC) + _LENGTH)
        if not beginning.startswith(_MAGIC):
            kind, of, _ = _MAGIC.rpartition(b"v")
            later = beginning.startswith(kind + of)
            raise self._not_valid("it is of another version" if later else "it does not begin as one does")
        length = int.from_bytes(beginning[len(_MAGIC) :], "little")
        if len(beginning) < len(_MAGIC) + _LENGTH or not 0 < length <= min(_LARGEST_HEADER, size):
            raise self._not_valid("its header is cut off or too long")
        try:
            data = self._file.read(length)
            read_object(data)
            header = _Header.model_validate_json(data)
        except NotStrictError as error:
            raise self._not_valid(f"its header {error}") from None
        except ValidationError:
            raise self._not_valid("its header has not the fields of one") from None
        start = len(beginning) + length
        for group in header.groups:
            if not group.tensors or len({each.name for each in group.tensors}) != len(group.tensors):
                raise self._not_valid("it lists a tensor twice, or none")
            row = row_size(group.tensors)
            if row > _LARGEST_ROW or start + row * len(group.entries) > size:
                raise self._not_valid("its rows are cut off or too long")
            yield _Rows(group.tensors, group.entries, start)
            start += row * len(group.entries)
        if start != size:
            raise self._not_valid("there is more in it than its header says")

    def _not_valid(self, why: str) -> DocumentError:
        return DocumentError(
            f"{self._name} is no index of this version ({why}); make one with `manifest index add INDEX FOLDER`."
        )


@contextmanager
def opened_index(path: Path) -> Iterator[Index]:
    """An index, open until the block ends.

    Raises:
        InputError: There is no such file.
        DocumentError: It is no index.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{printable(str(path))} is no regular file, expected an index; name another.")
            yield Index(file, path.name)
    except OSError as error:
        raise InputError(
            f"The index {printable(str(path))} cannot be read ({error.strerror}); name its file."
        ) from None


@dataclass(frozen=True)
class Added:
    """What became of an index.

    Attributes:
        added: Sets of weights that are new in it.
        updated: Those that were in it, and have the name by which they were added last.
        held: All that it has now.
    """

    added: int
    updated: int
    held: int


def add(path: Path, subjects: Iterable[Subject]) -> Added:
    """Put weights into an index, which is made where there is none; the same weights are in it once.

    Args:
        path: The index.
        subjects: The weights. They may raise no errors of the file system.

    Raises:
        DocumentError: The file is there and is no index.
        StorageError: It cannot be written, or another process has changed it meanwhile.
    """
    with staging(path) as staged:
        if not path.exists():
            return _added(path, staged, None, subjects)
        with opened_index(path) as old:
            return _added(path, staged, old, subjects)


def _added(path: Path, staged: Path, old: Index | None, subjects: Iterable[Subject]) -> Added:
    before = _state(path)
    spools = _spooled(staged, subjects)
    new = {entry.weights for spool in spools.values() for entry in spool.entries}
    known = {entry.weights for entry in old.entries} if old is not None else set()
    groups = {group.layout: group for group in old.groups} if old is not None else {}
    kept = {
        layout: [number for number, entry in enumerate(group.entries) if entry.weights not in new]
        for layout, group in groups.items()
    }
    layouts = [each for each in dict.fromkeys((*groups, *spools)) if kept.get(each) or each in spools]
    entries = {
        each: [
            *(groups[each].entries[number] for number in kept.get(each, ())),
            *(spools[each].entries if each in spools else ()),
        ]
        for each in layouts
    }
    progress.begin(f"writing {printable(path.name)}")
    with staged.open("xb") as file:
        file.write(_header(path, entries))
        for layout in layouts:
            if old is not None and layout in groups:
                wanted = set(kept[layout])
                for start, rows in old.rows(groups[layout], _COPIED_AT_ONCE):
                    file.write(rows[[start + number in wanted for number in range(len(rows))]].tobytes())
            if layout in spools:
                _copy(spools[layout].path, file)
        file.flush()
        os.fsync(file.fileno())
    with opened_index(staged):
        pass  # it is one
    if _state(path) != before:
        raise StorageError(f"Another process has changed {printable(path.name)} meanwhile; add to it again.")
    replace_file(staged, path)
    return Added(len(new - known), len(new & known), sum(map(len, entries.values())))


@dataclass(frozen=True)
class _Spool:
    """Rows of one layout on their way to the index, in a file, so that they need not be in memory."""

    path: Path
    entries: list[Entry]


def _spooled(staged: Path, subjects: Iterable[Subject]) -> dict[Layout, _Spool]:
    new: set[str] = set()
    spools: dict[Layout, _Spool] = {}
    for subject in subjects:
        if subject.weights not in new:
            layout = layout_of(subject)
            spool = spools.setdefault(layout, _Spool(staged.with_name(f"{len(spools)}.rows"), []))
            with spool.path.open("ab") as file:
                file.write(row_of(subject, layout).tobytes())
            spool.entries.append(entry_of(subject))
            new.add(subject.weights)
    return spools


def _copy(path: Path, file: BinaryIO) -> None:
    with path.open("rb") as rows:
        while block := rows.read(_COPIED_AT_ONCE):
            file.write(block)


def _header(path: Path, entries: dict[Layout, list[Entry]]) -> bytes:
    groups = [{"tensors": layout, "entries": some} for layout, some in entries.items()]
    text = json.dumps({"groups": groups}, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")
    text += b" " * (-(len(_MAGIC) + _LENGTH + len(text)) % _ALIGNMENT)
    if len(text) > _LARGEST_HEADER:
        raise InputError(f"{printable(path.name)} would have too many weights of different models; begin another.")
    return _MAGIC + len(text).to_bytes(_LENGTH, "little") + text


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns

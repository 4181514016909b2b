"""Files at addresses as files of this machine: of the same length, and empty but for what was fetched.

Holes in a file take no room on the disk. Ranges near each other are fetched by one request, and several requests are
under way at a time. What is read from end to end passes through and is not kept.
"""

from __future__ import annotations

import bisect
import os
import shutil
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from manifest.errors import InputError
from manifest.escaping import printable
from manifest.remote.addresses import Address
from manifest.remote.reading import Source, opened

Range = tuple[int, int]
"""The first byte, and the one after the last."""

_GAP = 8 << 10
"""Bytes that are fetched for nothing, at most, where that saves a request."""
_PIECE = 4 << 20
"""Bytes of one request, at most."""
_IN_FLIGHT = 8
"""Requests at a time."""


class Mirror:
    """A folder of this machine with files at addresses, which is removed when nobody has it any more.

    Attributes:
        address: The file that was asked for.
        path: Where it appears.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self._folder = Path(tempfile.mkdtemp(prefix="manifest-"))
        self._removed = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files: list[RemoteFile] = []
        self.path = self._folder / address.name

    def open(self, name: str) -> RemoteFile:
        """A file of the same place.

        Raises:
            FileNotFoundError: There is none.
            InputError: It cannot be had.
        """
        address = self.address if name == self.path.name else self.address.beside(name)
        file = RemoteFile(opened(address), self._folder / name)
        self._files.append(file)
        return file

    def bring(self, names: Iterable[str], most: int) -> None:
        """Fetch small files of the same place whole, those that are there.

        Args:
            names: What they are called.
            most: Bytes of each, at most.

        Raises:
            InputError: One cannot be had, or is larger.
        """
        wanted = [name for name in names if not (self._folder / name).exists()]
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            list(pool.map(lambda name: self._bring(name, most), wanted))

    def _bring(self, name: str, most: int) -> None:
        address = self.address.beside(name)
        try:
            source = opened(address)
        except FileNotFoundError:
            return
        if source.size > most:
            raise InputError(f"{address.shown} is larger than {most:,} bytes, so it is not read; check what it is.")
        (self._folder / name).write_bytes(source.read(0, source.size))

    def account(self) -> str:
        """At the end of a report's line: how much was fetched of files that are still the same.

        Raises:
            InputError: One of them was changed.
        """
        self.require_unchanged()
        fetched, size = sum(file.fetched for file in self._files), sum(file.size for file in self._files)
        return f"; {fetched / 1e6:,.1f} of {size / 1e6:,.1f} MB were fetched"

    def require_unchanged(self) -> None:
        """Refuse files that are others now.

        Raises:
            InputError: One is.
        """
        for file in self._files:
            file.require_unchanged()

    def close(self) -> None:
        self._removed()


class RemoteFile:
    """A file at an address, and the file of this machine that it appears as.

    Attributes:
        path: The file of this machine.
        size: Its bytes.
        fetched: Bytes that were fetched.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.path, self.size = path, source.size
        self.fetched = len(source.head)
        self._source = source
        self._held: list[Range] = [(0, len(source.head))] if source.head else []
        self._lock = threading.Lock()
        try:
            with path.open("wb") as file:
                file.write(source.head)
                file.truncate(source.size)
        except OSError as error:
            raise InputError(f"Cannot make {printable(str(path), 1000)}: {error.strerror}; free some room.") from None

    def need(self, ranges: Iterable[Range]) -> None:
        """Fetch what is not there yet of some ranges.

        Raises:
            InputError: It cannot be had.
        """
        with self._lock:
            pieces = [piece for each in _joined(ranges) for missing in self._missing(each) for piece in _cut(*missing)]
            if pieces:
                try:
                    with self.path.open("r+b") as file:
                        for (start, _), data in zip(pieces, self._arriving(pieces), strict=True):
                            os.pwrite(file.fileno(), data, start)
                except OSError as error:
                    place = printable(str(self.path.parent), 1000)
                    cure = "free some room, or name another place in $TMPDIR"
                    raise InputError(f"Cannot write into {place}: {error.strerror}; {cure}.") from None
                self._held = _joined([*self._held, *pieces], gap=0)

    def has(self, start: int, end: int) -> bool:
        """Whether all of a range was fetched and kept."""
        return next(self._missing((start, end)), None) is None

    def blocks(self, start: int, size: int) -> Iterator[memoryview]:
        """A range from its first byte to its last, in pieces that are not kept.

        Raises:
            InputError: It cannot be had.
        """
        return map(memoryview, self._arriving(_cut(start, start + size)))

    def require_unchanged(self) -> None:
        self._source.require_unchanged()

    def _arriving(self, pieces: Iterable[Range]) -> Iterator[bytes]:
        """The bytes of some ranges in turn, the next ones being asked for already."""
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            for piece in pieces:
                if len(waiting) == _IN_FLIGHT:
                    yield self._counted(waiting.popleft().result())
                waiting.append(pool.submit(self._source.read, *piece))
            while waiting:
                yield self._counted(waiting.popleft().result())

    def _counted(self, data: bytes) -> bytes:
        self.fetched += len(data)
        return data

    def _missing(self, wanted: Range) -> Iterator[Range]:
        start, end = wanted
        at = max(bisect.bisect_right(self._held, (start, self._source.size)) - 1, 0)
        for first, last in self._held[at:]:
            if first >= end:
                break
            if start < first:
                yield start, first
            start = max(start, last)
        if start < end:
            yield start, end


@contextmanager
def fetched(address: str, most: int) -> Iterator[Path]:
    """A small file at an address, whole, as one of this machine while the block lasts.

    Raises:
        InputError: There is none, it cannot be had, or it is larger than `most` bytes.
    """
    place = Address(address)
    mirror = Mirror(place)
    try:
        mirror.bring([place.name], most)
        if not mirror.path.exists():
            raise InputError(f"There is no file {place.shown}; check the address.")
        yield mirror.path
    finally:
        mirror.close()


def _joined(ranges: Iterable[Range], gap: int = _GAP) -> list[Range]:
    """Ranges in order, those that overlap or are near each other as one."""
    found: list[Range] = []
    for start, end in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1] + gap:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _cut(start: int, end: int) -> Iterator[Range]:
    return ((at, min(at + _PIECE, end)) for at in range(start, end, _PIECE))

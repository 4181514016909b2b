"""The bytes of an open file that describe its tensors: headers, pickles, directories of archives.

They are read and never mapped: to touch a mapping where the file has been cut meanwhile kills the process, and a short
read is an error in one sentence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from mmap import mmap
from struct import Struct
from typing import Any

from manifest.digests import was_cut
from manifest.errors import InputError

_WINDOW = 4096  # bytes; most headers of records are read with one call, and what follows in a directory with few
_FAR_WINDOW = 256  # bytes of the same, where each is fetched
_FIRST_BEGINNING = 256 << 10


class FileBytes:
    """A file, or the part of one that is an archive by itself, as a sequence of bytes whose slices are copies.

    Args:
        mapping: The file; it is read from there where there is no descriptor.
        descriptor: The same open file, or -1.
        name: What to call it in a message.
        start: Where the bytes begin in the file.
        end: Where they end, the end of the file unless given.
        need: Called with ranges of a file at an address before they are read; None where there is nothing to fetch.
    """

    def __init__(
        self,
        mapping: mmap,
        descriptor: int,
        name: str,
        start: int = 0,
        end: int | None = None,
        need: Callable[[Iterable[tuple[int, int]]], None] | None = None,
    ) -> None:
        self._mapping, self._descriptor, self._name, self._start = mapping, descriptor, name, start
        self._need = need
        self._most_at_once = _WINDOW if need is None else _FAR_WINDOW
        self._size = (len(mapping) if end is None else end) - start
        self._window, self._window_start = b"", 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, places: slice) -> bytes:
        """The bytes of a slice without step.

        Raises:
            InputError: The file was cut since it was opened, or it cannot be read.
        """
        start, end, _ = places.indices(self._size)
        count = max(0, end - start)
        if count > self._most_at_once:
            return self._read(start, count)
        at = start - self._window_start
        if at < 0 or at + count > len(self._window):
            self._window = self._read(start, min(self._most_at_once, self._size - start))
            self._window_start, at = start, 0
        return self._window[at : at + count]

    def unpack(self, layout: Struct, position: int) -> tuple[Any, ...]:
        """The fields of a structure that begins at a position; it must end within these bytes."""
        return layout.unpack(self[position : position + layout.size])

    def part(self, start: int, end: int) -> FileBytes:
        """The bytes from one position to another as a sequence of their own."""
        return FileBytes(
            self._mapping, self._descriptor, self._name, self._start + start, self._start + end, self._need
        )

    def expect(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which ranges will be read one after the other: of a file at an address, they are fetched together."""
        if self._need is not None:
            self._need(
                (self._start + max(start, 0), self._start + min(max(end, start + _FAR_WINDOW), self._size))
                for start, end in ranges
            )

    def beginnings(self, most: int) -> list[int]:
        """How many bytes to read from the first, where it is not known how many are needed: all at once, or more and
        more of a file at an address.
        """
        sizes = [most]
        while self._need is not None and sizes[0] > _FIRST_BEGINNING:
            sizes.insert(0, sizes[0] // 4)
        return sizes

    def _read(self, start: int, count: int) -> bytes:
        position, end = self._start + start, self._start + start + count
        if self._need is not None:
            self._need([(position, end)])
        if self._descriptor < 0:
            return self._mapping[position:end]
        blocks = []
        while position < end:
            try:
                block = os.pread(self._descriptor, end - position, position)
            except OSError as error:
                raise InputError(f"Cannot read {self._name!r}: {error.strerror}") from None
            if not block:
                raise was_cut(self._name, position)
            blocks.append(block)
            position += len(block)
        return b"".join(blocks)

"""The bytes of an open file that describe its tensors: headers, pickles, directories of archives.

They are read and never mapped: to touch a mapping where the file has been cut meanwhile kills the process, and a short
read is an error in one sentence.
"""

from __future__ import annotations

import os
from mmap import mmap
from struct import Struct
from typing import Any

from manifest.digests import was_cut
from manifest.errors import InputError

_WINDOW = 4096  # bytes; most headers of records are read with one call, and what follows in a directory with few


class FileBytes:
    """A file, or the part of one that is an archive by itself, as a sequence of bytes whose slices are copies.

    Args:
        mapping: The file; it is read from there where there is no descriptor.
        descriptor: The same open file, or -1.
        name: What to call it in a message.
        start: Where the bytes begin in the file.
        end: Where they end, the end of the file unless given.
    """

    def __init__(self, mapping: mmap, descriptor: int, name: str, start: int = 0, end: int | None = None) -> None:
        self._mapping, self._descriptor, self._name, self._start = mapping, descriptor, name, start
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
        if count > _WINDOW:
            return self._read(start, count)
        at = start - self._window_start
        if at < 0 or at + count > len(self._window):
            self._window, self._window_start, at = self._read(start, min(_WINDOW, self._size - start)), start, 0
        return self._window[at : at + count]

    def unpack(self, layout: Struct, position: int) -> tuple[Any, ...]:
        """The fields of a structure that begins at a position; it must end within these bytes."""
        return layout.unpack(self[position : position + layout.size])

    def part(self, start: int, end: int) -> FileBytes:
        """The bytes from one position to another as a sequence of their own."""
        return FileBytes(self._mapping, self._descriptor, self._name, self._start + start, self._start + end)

    def _read(self, start: int, count: int) -> bytes:
        position, end = self._start + start, self._start + start + count
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

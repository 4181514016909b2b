"""Checkpoints that a script saves into memory, and then writes to a file by itself: found by their bytes."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from pathlib import Path

from manifest.digests import bytes_digest

_MOST = 1000
"""Files that are remembered to have been opened for writing."""


class MemorySaves:
    """What was saved into memory, and which files were opened for writing since.

    Attributes:
        waiting: How many saves no file is known to hold yet.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self._opened: dict[Path, None] = {}
        self._ignored = False

    @property
    def waiting(self) -> int:
        return len(self._sizes)

    @contextlib.contextmanager
    def ignored(self) -> Iterator[None]:
        """Inside, what is saved is on its way to a file that is known anyway."""
        self._ignored = True
        try:
            yield
        finally:
            self._ignored = False

    def saved(self, content: bytes | memoryview) -> None:
        """Remember what was saved, by its digest."""
        if not self._ignored:
            self._sizes[bytes_digest(content)] = len(content)

    def opened(self, path: Path) -> None:
        """Remember a file that may get it."""
        self._opened[path] = None
        while len(self._opened) > _MOST:
            del self._opened[next(iter(self._opened))]

    def renamed(self, old: Path, new: Path) -> None:
        """Remember such a file by its new name."""
        if old in self._opened:
            del self._opened[old]
            self._opened[new] = None

    def written(self) -> list[Path]:
        """The files that hold what was saved; each is told once."""
        found = []
        for path in list(self._opened):
            if path.is_file() and (size := path.stat().st_size) and size in self._sizes.values():
                with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    digest = bytes_digest(content)
                if self._sizes.pop(digest, None) is not None:
                    found.append(path)
                    del self._opened[path]
        return found

"""Writing files so that a crash leaves the old one or the new one: synced, renamed, and by one process at a time."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from manifest.storage.places import place_to_save, storage_errors
from manifest.temporaries import temporary_directory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


_STAGED = ".staged"
"""What a file is called in a temporary directory: hidden there too, whoever looks for checkpoints."""


def synchronise(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_durably(path: Path, data: bytes, of: Path) -> None:
    """Write a sidecar of a checkpoint, which is there whole or not at all, and on the disk."""
    with replacing(path, of) as staged:
        staged.write_bytes(data)


@contextlib.contextmanager
def replacing(path: Path, of: Path | None = None) -> Iterator[Path]:
    """A temporary name for a file, which is synced and put in place when the block ends well.

    Args:
        path: The place.
        of: What the hidden directory is named for, the place itself when None.
    """
    with temporary_directory(of or path, path.parent) as hidden:
        staged = hidden / _STAGED
        yield staged
        synchronise(staged)
        staged.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text that somebody asked for, whole or not at all; into a device or a pipe as it is.

    Raises:
        StorageError: It cannot be written; nothing was changed.
    """
    with storage_errors(path):
        target = place_to_save(path)
        if target is None:
            path.write_text(text, encoding="utf-8")
            return
        with replacing(target) as staged:
            staged.write_text(text, encoding="utf-8")
            staged.chmod(_mode_of(target))


def _mode_of(path: Path) -> int:
    """Permissions of a file that is about to be replaced, or those that a new file would get."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Inside, no other process and no other thread puts checkpoints in place there, where the system can keep that."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files of a training, while it goes on: replaced, told apart, and left as old as they were."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manifest.digests import files_digests
from manifest.storage.sidecars import MANIFEST_ENDING, SIGNATURE_ENDINGS
from manifest.storage.transaction import clear_sidecars, replace_file, staging

Write = Callable[[Any], object]
"""Writes a checkpoint to a path or an open file."""


_ERROR = ".manifest.error"


SIDECARS = (MANIFEST_ENDING, *SIGNATURE_ENDINGS, _ERROR)
"""How the names of files end that come and go with a checkpoint."""


def write_and_replace(path: Path, write: Write, to_file: bool) -> None:
    """Write a file and rename it into place; where that cannot be done, as the script would have done it."""
    try:
        with staging(path) as staged:
            if to_file:  # so that the name of the moment is not in it
                with staged.open("xb") as file:
                    write(file)
            else:
                write(str(staged))
            replace_file(staged, path, durably=False)
    except Exception:
        with contextlib.suppress(OSError):
            clear_sidecars(path)
        write(path)  # also for the error that the script knows


@contextlib.contextmanager
def kept_age(place: Path) -> Iterator[None]:
    """Afterwards, a checkpoint's directory is as old as before: trainers remove those that changed longest ago."""
    try:
        descriptor = os.open(place if place.is_dir() else place.parent, os.O_RDONLY)
    except OSError:  # it has been removed, or the system opens no directories
        yield
        return
    try:
        before = os.fstat(descriptor)
        yield
        with contextlib.suppress(OSError):  # another user's directory
            os.utime(descriptor, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(descriptor)


def error_file(path: Path) -> Path:
    return path.with_name(path.name + _ERROR)


def digests_of(path: Path) -> list[tuple[str, str]] | None:
    return files_digests([path]) if path.is_file() else None


def identity_of(path: Path, *, missing: bool = False) -> tuple[int, ...]:
    """By what a file is known to be the one that was described, wherever it was renamed to."""
    try:
        status = path.stat()
    except OSError:
        if missing:
            return ()
        raise
    return (status.st_dev, status.st_ino) if path.is_dir() else (status.st_dev, status.st_ino, status.st_size)

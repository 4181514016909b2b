"""Files that people write and that are read whole: policies, readings, answers, prompts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from manifest.errors import InputError

LARGEST = 1 << 20  # bytes


def read_small(path: Path, what: str, *, most: int = LARGEST) -> bytes:
    """A file's bytes, of which no more are read than it may have.

    Args:
        path: The file.
        what: What it should be, as in "policy".
        most: The most bytes that it may have.

    Raises:
        InputError: There is no such file, it is no regular one, it cannot be read, or it is larger.
    """
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"The {what} {path} is no regular file; name one that is.")
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read ({error.strerror}); name its file.") from None
    if len(data) > most:
        raise InputError(f"The {what} {path.name} is larger than {most:,} bytes; name another file.")
    return data


def _at_once(path: str, flags: int) -> int:
    """Open without waiting for somebody to write into what is a FIFO."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

"""Files that people write and that are read whole: policies, readings, answers, prompts."""

from __future__ import annotations

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
        InputError: There is no such file, it cannot be read, or it is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"The {what} {path} cannot be read ({error.strerror}); name its file.") from None
    if len(data) > most:
        raise InputError(f"The {what} {path.name} is larger than {most:,} bytes; name another file.")
    return data

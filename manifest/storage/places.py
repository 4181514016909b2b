"""What lies at a path that is saved to, and what can go wrong there.

Only regular files and new names are ever replaced, links followed; a device, a pipe or a socket is written to as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from manifest.errors import HubError, KeyFileError, NoManifestWarning, StorageError
from manifest.warning import warn


def place_to_save(path: Path) -> Path | None:
    """The name that a save to some path may replace: of a regular file or of nothing yet, links followed.

    Returns:
        None for a device, a pipe, a socket or a directory, which is never replaced.
    """
    try:
        # A pipe that stdout is has a name that leads to it, as /dev/stdout does, and none that can be resolved.
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            return None
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # what cannot be looked at is said when it is written; a circle of links
        return path


def is_special(path: Path) -> bool:
    """Whether a path leads to a device, a pipe or a socket."""
    return place_to_save(path) is None and not path.is_dir()


def warn_of_special(path: Path) -> None:
    """Warn that what was written into a device, a pipe or a socket has no manifest."""
    warn(
        f"{path} is {kind_of(path)}, so it was written without a manifest; save to a file to have one.",
        NoManifestWarning,
    )


def kind_of(path: Path) -> str:
    """What a path leads to, in words."""
    return kind_of_mode(path.stat().st_mode)


def kind_of_mode(mode: int) -> str:
    """What a file's mode says that it is, in words."""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a directory", stat.S_IFREG: "a file"}
    return kinds.get(stat.S_IFMT(mode), "a device")


@contextlib.contextmanager
def storage_errors(checkpoint: Path) -> Iterator[None]:
    """Turn errors of the file system, while a checkpoint is written, into one-sentence `StorageError`s."""
    try:
        yield
    except (HubError, KeyFileError):  # an error of the network, of a key service too, has a number
        raise
    except Exception as error:
        number = _error_number(error)
        if number is None:
            raise
        raise _storage_error(checkpoint, number) from error


def _error_number(error: BaseException | None) -> int | None:
    """The errno behind an exception, also when a library has turned it into text or chained it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        if wrapped := re.search(r"os error (\d+)", str(error)):
            return int(wrapped[1])
        error = error.__cause__ or error.__context__
    return None


def _storage_error(checkpoint: Path, number: int) -> StorageError:
    directory = checkpoint.parent
    sentences = {
        errno.ENOSPC: f"The disk of {directory} is full; free some space or save elsewhere",
        errno.EDQUOT: f"The quota of {directory} is used up; free some space or save elsewhere",
        errno.EFBIG: f"{checkpoint.name} is larger than a file may be there; raise the limit or save elsewhere",
        errno.EACCES: f"{directory} may not be written; change its permissions or save elsewhere",
        errno.EPERM: f"{directory} may not be written; change its permissions or save elsewhere",
        errno.EROFS: f"{directory} is on a read-only file system; save elsewhere",
        errno.ENOENT: f"There is no directory {directory}; create it first",
        errno.ENOTDIR: f"{directory} is not a directory; save elsewhere",
        errno.EISDIR: f"{checkpoint} is a directory, expected a file name; add one",
        errno.ENAMETOOLONG: f"The name {checkpoint.name[:40]}… is too long for this file system; shorten it",
    }
    reason = sentences.get(number, f"{checkpoint} could not be written ({os.strerror(number)}); save elsewhere")
    return StorageError(f"{reason}; nothing was changed.")

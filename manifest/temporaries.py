"""Hidden directories in which files are written before they are put in place, and what of them killed processes left.

A directory is named for what it becomes, the process that made it and the boot of its machine. A file in it is locked
while its maker lives, so a lock that can be taken proves that the maker is gone, whatever process has its number now.
It is the first file in its directory and the last one removed: a directory without it is empty, and may be removed at
any time, since a maker that finds its directory gone makes another.
On a file system of several machines a lock may not be seen from all of them; there, age decides as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"\.(?P<of>.+)\.\d+-(?P<token>[0-9a-f]+)\.tmp", re.DOTALL)
_LOCK = ".lock"
_NEITHER_WAIT_NOR_FOLLOW = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
_BOOT = 8  # hexadecimal digits for the boot, before as many by chance
_OLD = 24 * 3600  # seconds; no writer leaves what it writes alone for so long, and no two clocks differ by as much


@dataclass(frozen=True)
class Leftovers:
    """Temporary files and directories that were found.

    Attributes:
        removed: Whose writers are gone.
        kept: Whose writers live, or may live on another machine.
    """

    removed: tuple[Path, ...]
    kept: tuple[Path, ...]


@contextlib.contextmanager
def temporary_directory(target: Path, folder: Path | None = None) -> Iterator[Path]:
    """A hidden directory from which a file can be renamed to its place; gone afterwards with all that is still in it.

    Args:
        target: What will be put in place.
        folder: Where the directory is made; that of `target` when None.

    Raises:
        OSError: The directory cannot be made.
    """
    while True:
        made = (folder or target.parent) / f".{target.name}.{os.getpid()}-{_boot()}{secrets.token_hex(4)}.tmp"
        made.mkdir()
        lock = _locked(made)
        if lock is not None:
            break
    try:
        yield made
    finally:
        _remove_directory(made, lock)


def remove_leftovers(folder: Path, target: str | None = None) -> Leftovers:
    """Remove what killed processes left in a folder: that of one target by its name, or of all.

    What cannot be looked at is left; a folder that cannot be listed has none.
    """
    removed: list[Path] = []
    kept: list[Path] = []
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return Leftovers((), ())
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None and target in (None, match["of"]):
            place = folder / name
            (removed if _remove(place, match["token"]) else kept).append(place)
    return Leftovers(tuple(removed), tuple(kept))


def is_temporary(name: str) -> bool:
    """Whether a file or directory of some name is one that was written on the way to another."""
    return _NAME.fullmatch(name) is not None


def _locked(made: Path) -> int | None:
    """The open lock of a directory just made; None where somebody has taken it for a leftover meanwhile."""
    try:
        descriptor = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    if not _take(descriptor, unsupported=True):
        os.close(descriptor)
        return None
    try:
        same = os.path.samestat((made / _LOCK).stat(), os.fstat(descriptor))
    except FileNotFoundError:
        same = False
    if not same:
        os.close(descriptor)
        return None
    return descriptor


def _take(descriptor: int, *, unsupported: bool) -> bool:
    """Whether a lock could be taken; where there are none, as told."""
    if fcntl is None:
        return unsupported
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return unsupported
    return True


def _remove(place: Path, token: str) -> bool:
    """Remove a temporary file or directory whose writer is certainly gone, and say whether it was."""
    is_directory = place.is_dir() and not place.is_symlink()
    ours = is_directory and token.startswith(_boot()) and len(token) > _BOOT
    try:
        descriptor = os.open(place / _LOCK if is_directory else place, os.O_RDWR | _NEITHER_WAIT_NOR_FOLLOW)
    except OSError:
        if is_directory:
            with contextlib.suppress(OSError):
                place.rmdir()  # only if it is empty
            if _is_old(place):  # of an earlier version, which removed the lock before the rest
                shutil.rmtree(place, ignore_errors=True)
        return not os.path.lexists(place)
    if not (_take(descriptor, unsupported=False) and (ours or _is_old(place))):
        os.close(descriptor)
        return False
    if is_directory:
        _remove_directory(place, descriptor)
    else:
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(descriptor)
    return not os.path.lexists(place)


def _remove_directory(made: Path, lock: int) -> None:
    """Remove a directory whose lock is held: the lock after the rest. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(made)):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != _LOCK:
                Path(entry.path).unlink()
        (made / _LOCK).unlink()
    os.close(lock)  # before the directory goes: some network file systems keep an open file in it by another name
    with contextlib.suppress(OSError):
        made.rmdir()


def _is_old(place: Path) -> bool:
    """Whether nothing was written there for a day."""
    try:
        inside = place.rglob("*") if place.is_dir() else ()
        newest = max(path.lstat().st_mtime for path in (place, *inside))
    except OSError:
        return False
    return bool(time.time() - newest > _OLD)


def _boot() -> str:
    """Hexadecimal digits that are the same in all processes of a machine until it is started anew."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        name = platform.node()
    return hashlib.sha256(name.encode()).hexdigest()[:_BOOT]

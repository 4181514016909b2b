"""Checks of many checkpoints, side by side in processes where there are processors for them, and pairs of two folders.

Each of them waits for the interpreter most of the time, so threads would not do. What a check is made of is inherited
by the processes and never pickled; only reports come back.
"""

from __future__ import annotations

import glob
import multiprocessing
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from manifest import progress
from manifest.errors import InputError, ManifestError
from manifest.escaping import printable
from manifest.schema.report import Kind, Report
from manifest.storage.sidecars import named_checkpoints, require_checkpoint

_FEWEST = 8
"""Checkpoints from which processes are worth their start."""
_LARGE = 1 << 30
"""Bytes of a file from which it is checked alone, on all processors."""

_check: Callable[[Path], Report] | None = None


def check_each(
    paths: Sequence[Path], check: Callable[[Path], Report], kind: Kind, *, in_processes: bool = False
) -> Iterator[tuple[int, Report]]:
    """A report of every checkpoint with its number, as they come; what could not be checked is a report too.

    Args:
        paths: The checkpoints.
        check: What is done with each.
        kind: What its report is called.
        in_processes: Whether it may be done in processes forked off this one, which has not used torch.
    """

    def checked(path: Path) -> Report:
        try:
            return check(path)
        except ManifestError as error:
            return Report(kind=kind, subject=path.name, path=str(path), error=str(error))

    left = dict(enumerate(paths))
    workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
    if in_processes and workers > 1 and len(paths) >= _FEWEST:
        small = {number: path for number, path in left.items() if _is_small(path)}
        for number, report in _in_processes(small, checked, workers):
            del left[number]
            progress.now.subject = f"{len(paths) - len(left)} of {len(paths)}"
            yield number, report
    for number, path in left.items():
        progress.now.subject = path.name if len(paths) == 1 else f"{number + 1} of {len(paths)}, {path.name}"
        yield number, checked(path)
    progress.now.subject = ""


def _is_small(path: Path) -> bool:
    """Whether it is a file that one process can read beside others; what cannot be looked at is left to the check."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size < _LARGE


def _in_processes(
    paths: dict[int, Path], check: Callable[[Path], Report], workers: int
) -> Iterator[tuple[int, Report]]:
    """Those reports that there are, until one of the processes is ended by somebody."""
    global _check
    _check = check
    progress.begin("checking")
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_begin) as pool:
            running = {pool.submit(_checked, path): number for number, path in paths.items()}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what runs now is short
                raise
    except BrokenProcessPool:
        return  # as where memory is short: the others are checked one at a time
    finally:
        _check = None


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it, and its parent says so


def _checked(path: Path) -> Report:
    assert _check is not None
    return _check(path)


def pairs(one: str, other: str) -> dict[str, tuple[Path | None, Path | None]]:
    """The checkpoints of two places by their names in these; None where one place has none of that name.

    Args:
        one: A folder, or a pattern such as `runs/*.pt`, whose names are those below `runs`.
        other: The same.

    Raises:
        InputError: One is not there, or is one checkpoint and the other is not.
    """
    then, now = _by_name(one), _by_name(other)
    return {name: (then.get(name), now.get(name)) for name in sorted({*then, *now})}


def _by_name(place: str) -> dict[str, Path]:
    """Checkpoints by their names below a folder, or below the folders that a pattern names in so many words."""
    paths = named_checkpoints([place])
    if paths == [Path(place)]:
        named = require_checkpoint(place)
        raise InputError(
            f"{printable(str(named), 1000)} is one checkpoint, and the other place holds several; "
            "name two checkpoints, or two folders."
        )
    parts = Path(place).parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return {os.path.relpath(path, Path(*parts[:fixed])): path for path in paths}

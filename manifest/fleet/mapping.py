"""Checking many checkpoints: one report each, whatever happens to the others, and none of what is on record.

One bad file stops nothing. What a check refuses, what it never expected, and the end of its process all become a report
with an error. Nothing is kept in memory of those that are done.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from manifest import progress
from manifest.errors import InputError, ManifestError, one_line
from manifest.escaping import address_in, printable, public
from manifest.fleet.engines import Engine, LostError, engine_of
from manifest.fleet.processes import processors
from manifest.schema.report import Kind, Report
from manifest.storage.journal import Journal, opened
from manifest.storage.states import State, is_still, state_of
from manifest.version import __version__

_log = logging.getLogger(__name__)

_FEWEST = 8
"""Checkpoints from which processes are worth their start."""
_LARGE = 1 << 30
"""Bytes of a file from which it is checked alone, on all processors."""
_REQUESTS = 16
"""Checkpoints that are looked at at a time, whether they were changed."""
_AT_ONCE = 256
"""Reports of a journal that are in memory at a time."""


def map(
    check: Callable[[Path], Report],
    checkpoints: Iterable[str | os.PathLike[str]],
    *,
    engine: str | Engine = "local",
    workers: int | None = None,
    journal: str | os.PathLike[str] | None = None,
    asked: Sequence[object] | None = None,
    cache: bool = True,
) -> Iterator[Report]:
    """Check many checkpoints in other processes, and give each report when it is there.

    Args:
        check: What is done with each: `manifest.audit`, `manifest.verify`, or `functools.partial` of one.
        checkpoints: Paths of files and directories, or addresses. `report.path` says which one a report is of.
        engine: `local`, the processes of this machine; `ray`, those of a cluster; or a function
            (`manifest.fleet.engines.Engine`).
        workers: How many checks are under way at a time; one on each processor when None.
        journal: A file that keeps the reports and has those of earlier runs: `.sqlite`, `.parquet`, or lines of JSON.
        asked: What tells this question from others in the journal, as strings; of a function of a module, and of a
            `partial` of one, its name and arguments. What the check reads besides the checkpoint is not seen there.
        cache: Whether the report of an earlier run is given for a checkpoint that was not changed since.

    Returns:
        One report for each, as they come. One that could not be checked has an `error`.

    Raises:
        InputError: There is no such engine, the check cannot be sent to it or told from others, or the journal cannot
            be read.
        StorageError: The journal cannot be written.

    Example:
        >>> from functools import partial
        >>> check = partial(manifest.verify, fast=True)
        >>> for report in manifest.fleet.map(check, ["ckpt.pt", "none.pt"], journal="results.jsonl"):
        ...     print(report.subject, report.exit_code)
        ckpt.pt 0
        none.pt 2
    """
    paths = [Path(each) for each in checkpoints]
    found = check.func if isinstance(check, functools.partial) else check
    name = getattr(found, "__name__", "")
    kind = Kind(name) if name in list(Kind) else Kind.VERIFY
    if journal is not None and asked is None:
        asked = _question(check)
    done = checked(
        paths,
        check,
        kind,
        engine=engine,
        workers=workers,
        in_processes=True,
        journal=None if journal is None else Path(journal),
        asked=asked or (),
        cache=cache,
    )
    return (report for _, report in done)


def _question(check: Callable[[Path], Report]) -> list[object]:
    """What a check asks, by its name and arguments."""
    given: list[object] = []
    if isinstance(check, functools.partial):
        given = [*check.args, *sorted(check.keywords.items())]
        check = check.func
    name = f"{getattr(check, '__module__', '')}.{getattr(check, '__qualname__', '<')}"
    if "<" in name:
        raise InputError(
            "A journal cannot tell this check from others; pass a function of a module or `functools.partial` of one, "
            'or say it: asked=["…"].'
        )
    return [name, *given]


def checked(
    paths: Sequence[Path],
    check: Callable[[Path], Report],
    kind: Kind,
    *,
    engine: str | Engine = "local",
    workers: int | None = None,
    in_processes: bool = False,
    journal: Path | None = None,
    asked: Sequence[object] = (),
    cache: bool = True,
) -> Iterator[tuple[int, Report]]:
    """A report of every checkpoint with its number, as they come; what could not be checked is a report too.

    Args:
        paths: The checkpoints, each once.
        check: What is done with each.
        kind: What the report of one is called that could not be checked.
        engine: Where it is done.
        workers: By how many processes; None for one on each processor, or none at all for a few checkpoints.
        in_processes: Whether the local engine may be used without `workers`.
        journal: A file that keeps the reports.
        asked: What is asked of each, by which the journal tells those reports from others.
        cache: Whether reports of earlier runs count.

    Raises:
        ManifestError: As of `map`.
    """
    run = engine_of(engine)
    with nullcontext(None) if journal is None else opened(journal, (kind, *asked, __version__)) as kept:
        left = dict(enumerate(paths))
        for number, report in _on_record(left, kept) if kept is not None and cache else ():
            del left[number]
            yield number, report
        task = _Task(check, kind, kept is not None)
        elsewhere = left
        if engine == "local":
            in_processes = in_processes and sys.platform == "linux" and len(left) >= _FEWEST and processors() > 1
            forked = in_processes or workers is not None
            elsewhere = {number: path for number, path in left.items() if forked and not _is_large(path)}
        here = [item for item in left.items() if item[0] not in elsewhere]
        progress.begin("checking")
        done = run(task, list(elsewhere.items()), workers) if elsewhere else ()
        for count, ((number, path), result) in enumerate(chain(done, _here(task, here)), len(paths) - len(left) + 1):
            progress.now.subject = f"{count} of {len(paths)}"
            state, report = _lost(path, kind) if isinstance(result, LostError) else result
            if kept is not None:
                kept.add(_place(path), state, report)
            yield number, report
        progress.now.subject = ""


@dataclass(frozen=True)
class _Task:
    """One check and the state of the checkpoint before it; it raises nothing."""

    check: Callable[[Path], Report]
    kind: Kind
    kept: bool

    def __call__(self, item: tuple[int, Path]) -> tuple[State, Report]:
        _, path = item
        state = state_of(path) if self.kept else []
        try:
            return state, self.check(path)
        except ManifestError as error:
            return [], _failed(path, self.kind, str(error))
        except Exception as error:  # whatever it is, the other checkpoints are no worse for it
            _log.debug("checking %s", path, exc_info=True)
            said = f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__
            return [], _failed(path, self.kind, f"{_shown(path)} ended its check by {said}; please report it.")


def _lost(path: Path, kind: Kind) -> tuple[State, Report]:
    said = "ended the process that checked it, twice, as where memory is short; check it where there is more"
    return [], _failed(path, kind, f"{_shown(path)} {said}.")


def _failed(path: Path, kind: Kind, error: str) -> Report:
    place = _place(path)
    return Report(kind=kind, subject=Path(place).name, path=place, error=error)


def _place(path: Path) -> str:
    """A path, or an address without what may be secret in it and differ from day to day."""
    address = address_in(path)
    return str(path) if address is None else public(address)


def _shown(path: Path) -> str:
    return printable(_place(path), 1000)


def _here(task: _Task, items: Sequence[tuple[int, Path]]) -> Iterator[tuple[tuple[int, Path], tuple[State, Report]]]:
    """The same one after the other, in this process."""
    for item in items:
        progress.now.subject += f"{', ' * bool(progress.now.subject)}{item[1].name}"
        yield item, task(item)


def _on_record(paths: dict[int, Path], journal: Journal) -> Iterator[tuple[int, Report]]:
    """The reports of checkpoints that are as they were when they were checked, for the same question."""
    left = iter(list(paths.items()))
    with ThreadPoolExecutor(_REQUESTS) as pool:
        while some := list(islice(left, _AT_ONCE)):
            found = [(item, recorded) for item in some if (recorded := journal.recorded(_place(item[1]))) is not None]
            # What could not be checked may be mended by now.
            whole = [(number, path, state, report) for (number, path), (state, report) in found if report.error is None]
            same = pool.map(lambda each: is_still(each[1], each[2]), whole)
            yield from (
                (number, report) for (number, _, _, report), is_same in zip(whole, same, strict=True) if is_same
            )


def _is_large(path: Path) -> bool:
    """Whether it is no file that one process can read beside others; an address is read in little memory."""
    if address_in(path) is not None:
        return False
    try:
        status = path.stat()
    except (OSError, ValueError):  # which its check says
        return False
    return not stat.S_ISREG(status.st_mode) or status.st_size >= _LARGE

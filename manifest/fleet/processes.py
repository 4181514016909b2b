"""The processes of this machine, by the standard library.

Where it can, it forks them, which takes little time and nothing that must be pickled. They end with the process that
made them, however that one ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from manifest.errors import InputError, one_line
from manifest.fleet.engines import LostError

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Things for each worker that are under way or wait for it."""

_WITH_THREADS = frozenset({"torch", "ray"})
"""Libraries with threads that wait for each other, of which a forked process has but one."""

_function: Callable[[Any], Any] | None = None


def run(function: Callable[[T], R], items: Iterable[T], workers: int | None) -> Iterator[tuple[T, R | LostError]]:
    """See `Engine`.

    Raises:
        InputError: The function cannot be sent to processes, which are forked on Linux only.
    """
    left = iter(items)
    count = workers or processors()
    while unfinished := (yield from _until_one_ends(function, left, count)):
        for item in unfinished:
            if (yield from _until_one_ends(function, iter([item]), 1)):
                yield item, LostError()


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _until_one_ends(
    function: Callable[[T], R], left: Iterator[T], workers: int
) -> Generator[tuple[T, R | LostError], None, list[T]]:
    """Results until nothing is left, or until a process ends; then what was under way or waited for one."""
    taken: dict[int, T] = {}
    running: dict[Future[R], int] = {}
    numbered = enumerate(left)
    with ProcessPoolExecutor(workers, _context(function), initializer=_begin, initargs=(function,)) as pool:
        try:
            while True:
                for number, item in islice(numbered, _AHEAD * workers - len(taken)):
                    taken[number] = item
                    running[pool.submit(_call, item)] = number
                if not taken:
                    return []
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield taken.pop(running.pop(future)), result
        except BrokenProcessPool:
            return list(taken.values())
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what runs now is finished first
            raise


def _context(function: Callable[[T], R]) -> BaseContext:
    """How processes are made: forked where no thread of a library may be lost by it, or if nothing else is possible."""
    if sys.platform == "linux" and not _WITH_THREADS & sys.modules.keys():
        return multiprocessing.get_context("fork")
    try:
        pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if sys.platform == "linux":  # what needs no torch is none the worse
            return multiprocessing.get_context("fork")
        raise InputError(
            f"The check cannot be sent to other processes ({one_line(error)}); "
            "pass a function of a module, or `functools.partial` of one."
        ) from None
    return multiprocessing.get_context("spawn")


def _begin(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt ends it, and its parent says so
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for_end([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    assert _function is not None
    return _function(item)

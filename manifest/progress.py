"""What a long piece of work is doing: the step by its name, and how many bytes of how many.

Whoever works says it here, and whoever shows it looks here as often as it likes; to say it costs next to nothing. And
whoever reads on a thread of its own, which an interrupt does not reach, is ended here.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_BETWEEN = 0.1  # seconds


@dataclass
class Step:
    """What is being done.

    Attributes:
        name: In a word or two.
        total: Bytes that are to be read; 0 where that is not known.
        done: Bytes that were read.
        began: By `time.monotonic`.
    """

    name: str
    total: int = 0
    done: int = 0
    began: float = field(default_factory=time.monotonic)


Follower = Callable[[Step], None] | bool | None
"""Who follows a piece of work: a function that is called with its steps, True for a bar of tqdm, None for nobody."""


@dataclass
class Progress:
    """The step that is being done now, and what it is done to.

    Attributes:
        step: None where nothing is going on.
        subject: Which of several checkpoints, as `3 of 20, ckpt.pt`.
    """

    step: Step | None = None
    subject: str = ""


class StoppedError(BaseException):
    """Somebody interrupted the work that this thread does a part of."""


now = Progress()
_stopped = threading.Event()


def begin(name: str, total: int = 0) -> None:
    """Say that the next step begins.

    Args:
        name: What is done, in a word or two.
        total: Bytes that are to be read in it; 0 where that is not known.
    """
    now.step = Step(name, total)


def expect(total: int) -> None:
    """Say how many bytes the step that is going on reads."""
    if now.step is not None:
        now.step.total = total


def read(count: int) -> None:
    """Say that so many more bytes were read.

    Raises:
        StoppedError: They are not wanted any more.
    """
    if _stopped.is_set():
        raise StoppedError
    if (step := now.step) is not None:
        step.done += count


def stop() -> None:
    """Have all threads end that read, where they next say what they read."""
    _stopped.set()


def end() -> None:
    """Say that nothing is going on any more."""
    now.step = None


def followed(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose keyword `progress` says who follows it while it works; see `Follower`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        follower: Any = kwargs.get("progress")
        if follower is None or follower is False:
            return function(*args, **kwargs)
        end()
        try:
            with _bars() if follower is True else nullcontext(follower) as shown, following(shown):
                return function(*args, **kwargs)
        finally:
            end()

    return call


@contextmanager
def following(follower: Callable[[Step], None], *, between: float = _BETWEEN) -> Iterator[None]:
    """Call a function with a copy of the step that is going on, on a thread of its own, until the block ends.

    What it raises is a warning, and it is not called any more: the work is not undone over it.

    Args:
        follower: The function.
        between: Seconds from one call to the next.
    """
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(between):
            if (step := now.step) is not None:
                try:
                    follower(replace(step, done=min(step.done, step.total or step.done)))
                except Exception as error:  # whatever a function of somebody else's raises
                    failed.append(error)
                    return

    failed: list[Exception] = []
    thread = threading.Thread(target=follow, name="manifest-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if failed:
        from manifest.warning import warn

        warn(f"What follows the progress failed, and was not called again: {failed[0]!r}.")


@contextmanager
def _bars() -> Iterator[Callable[[Step], None]]:
    """Shows each step as a bar of tqdm, which is one of a notebook in a notebook.

    Raises:
        LibraryMissingError: There is no tqdm.
    """
    from manifest.errors import LibraryMissingError

    try:
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    except ImportError:
        raise LibraryMissingError("progress=True needs tqdm: `pip install tqdm`, or give a function.") from None
    bar, shown = None, Step("")

    def show(step: Step) -> None:
        nonlocal bar, shown
        if bar is None or (step.name, step.began) != (shown.name, shown.began):
            if bar is not None:
                bar.close()
            bar = tqdm(desc=step.name, unit="B", unit_scale=True, unit_divisor=1000, leave=False)
        bar.total = step.total or None
        bar.update(step.done - bar.n)
        shown = step

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()

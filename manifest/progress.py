"""What a long piece of work is doing: the step by its name, and how many bytes of how many.

Whoever works says it here, and whoever shows it looks here as often as it likes; to say it costs next to nothing. And
whoever reads on a thread of its own, which an interrupt does not reach, is ended here.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


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

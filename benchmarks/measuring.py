"""Measuring whole processes, two of them in turn: their time, and the memory that is their own.

`ru_maxrss` counts the pages of a mapped file that happen to be in memory, which the kernel can drop at any time and
which several processes share. So memory is `RssAnon` of `/proc/PID/status` (Linux only), looked at every two
milliseconds in runs of their own, since looking takes time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MANIFEST = [sys.executable, "-m", "manifest"]
INSIDE = [sys.executable, Path(__file__).with_name("inside.py")]
_BETWEEN_LOOKS = 0.002  # seconds


@dataclass(frozen=True)
class Ran:
    """One process that has ended well.

    Attributes:
        seconds: From its start to its end.
        processor: Seconds of processors, in all of its threads.
        peak: Bytes of its greatest resident set, mapped files included.
        anonymous: Bytes of its greatest resident set without mapped files; 0 where that was not looked at.
        output: What it printed.
    """

    seconds: float
    processor: float
    peak: int
    anonymous: int
    output: str


class Took(float):
    """Seconds that something took, and those of processors, where they are known."""

    processor: float | None = None

    @classmethod
    def by(cls, ran: Ran) -> Took:
        """What a whole process took."""
        took = cls(ran.seconds)
        took.processor = ran.processor
        return took


@dataclass(frozen=True)
class Pair:
    """Two things measured in turn.

    Attributes:
        ours: Median of one.
        theirs: Median of the other.
        ratio: Median of ours over theirs, taken pair by pair, so that a slow moment of the machine hits both.
        processors: Medians of the seconds of processors of both, where they are known.
    """

    ours: float
    theirs: float
    ratio: float
    processors: tuple[float | None, float | None] = (None, None)

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Pair:
        """The medians of measurements that were taken in turn."""
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        processors = (_processor(ours), _processor(theirs))
        return cls(statistics.median(ours), statistics.median(theirs), statistics.median(ratios), processors)


def _processor(took: Sequence[float]) -> float | None:
    known = [each.processor for each in took if isinstance(each, Took) and each.processor is not None]
    return statistics.median(known) if known else None


def run(command: Sequence[str | Path], *, look: bool = False, found: bool = False) -> Ran:
    """Run a command to its end.

    Args:
        command: Program and arguments.
        look: Whether to watch its anonymous memory.
        found: Whether exit code 1 is an end too: the program has found something.

    Raises:
        RuntimeError: It failed; the message has its last words.
    """
    arguments = [str(word) for word in command]
    # Compiled once, as where it is installed: some machines forbid Python to keep what it compiles.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        anonymous = _watch(process.pid) if look else 0
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in ((0, 1) if found and "Traceback" not in output else (0,)):
        raise RuntimeError(f"{' '.join(arguments)} exited with {process.returncode}:\n{output[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, anonymous, output)


def in_turn(ours: Callable[[], float], theirs: Callable[[], float], runs: int) -> Pair:
    """Measure two things `runs` times in turn, after each has run once to warm up."""
    ours(), theirs()
    mine, others = [], []
    for _ in range(runs):
        mine.append(ours())
        others.append(theirs())
    return Pair.of(mine, others)


def seconds_of(command: Sequence[str | Path], *, found: bool = False) -> Callable[[], float]:
    """A measurement of a whole process's time, as `run` runs it."""
    return lambda: Took.by(run(command, found=found))


def seconds_said_by(command: Sequence[str | Path]) -> Callable[[], float]:
    """A measurement that the process takes itself and prints as its last line."""
    return lambda: float(run(command).output.split()[-1])


def imported_by(command: Sequence[str | Path]) -> list[str]:
    """The modules that a command of Python's, as in `MANIFEST`, imports, those first that were ready first."""
    arguments = [sys.executable, "-X", "importtime", *map(str, command[1:])]
    imports = subprocess.run(arguments, capture_output=True, text=True, check=True).stderr
    return [line.rpartition("|")[2].strip() for line in imports.splitlines() if line.startswith("import time:")][1:]


def _watch(pid: int) -> int:
    """The greatest anonymous memory of a process until it ends, in bytes; its output must fit in a pipe."""
    status, greatest = Path(f"/proc/{pid}/status"), 0
    while True:
        lines = status.read_text().splitlines()
        held = next((line for line in lines if line.startswith("RssAnon:")), None)
        if held is None:  # it has ended, and nobody has waited for it yet
            return greatest
        greatest = max(greatest, int(held.split()[1]) * 1024)
        time.sleep(_BETWEEN_LOOKS)

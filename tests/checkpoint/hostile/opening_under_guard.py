"""Opens checkpoints one after another in a process of its own, and tells on everything that reading them does.

Run with one line of JSON on standard input: `warm`, benign files that are opened before the guard is up, so that what
is imported late is there; `rows`, pairs of a name and a path; and `reader`. For each row it prints its name when it
begins, and what came of it when it has ended, as JSON. Whoever reads that knows which row it was that never ended.
"""

from __future__ import annotations

import faulthandler
import gc
import heapq  # noqa: F401 - imported late by collections.Counter
import json
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy  # noqa: F401 - imported late by the package

from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError, InputError

SECONDS = 20
"""Of the processor's time; how long a row takes by the clock says how busy the machine is."""
MOST_WAITING = 600
"""Seconds by the clock after which a row is taken to wait for something that never comes."""
MOST_ADDRESSES = 16 << 30
"""No row may take the machine with it: beyond this, memory is refused."""

HARMLESS = frozenset(("mmap.__new__", "os.listdir", "os.scandir", "builtins.id"))
"""Audit events of looking at files; `open` is another, when it is for reading. Everything else is told on."""

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class TooSlow(BaseException):
    """A row that takes more of the processor's time than it may."""


class Guard:
    """What reading does, while it is up."""

    def __init__(self) -> None:
        self.up = False
        self.events: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.up and not self._is_harmless(event, arguments):
            self.events.append(f"{event} {arguments!r:.200}")

    @staticmethod
    def _is_harmless(event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            _, mode, flags = arguments
            return not (set(mode or "r") & set("wax+") or (isinstance(flags, int) and flags & WRITING))
        return event in HARMLESS


class Memory:
    """The most memory that the process had since it was last asked, from the kernel's own account."""

    def __init__(self) -> None:
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def start(self) -> None:
        gc.collect()
        os.write(self._reset, b"5")
        self._before = self._read(b"VmRSS:")

    def growth(self) -> int:
        """Bytes."""
        return self._read(b"VmHWM:") - self._before

    @staticmethod
    def _read(field: bytes) -> int:
        lines = Path("/proc/self/status").read_bytes().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def read_checkpoint(path: str) -> dict[str, Any]:
    """Open a checkpoint and look at all of it, as a manifest of it would."""
    with open_checkpoint(path) as checkpoint:
        tensors = 0
        for candidate in checkpoint.candidates:
            weights = checkpoint.select(candidate.path)
            weights.aliases()
            for tensor in weights.tensors.values():
                weights.digest(tensor)
                tensors += 1
        return {"globals": checkpoint.globals, "tensors": tensors, "container": checkpoint.container}


def unpickle(path: str) -> dict[str, Any]:
    """What must be caught: the file is really unpickled."""
    pickle.loads(Path(path).read_bytes())
    return {}


def waste(path: str) -> dict[str, Any]:  # noqa: ARG001
    """What must be caught: 400 MB, all of it written to."""
    return {"globals": [str(len(b"x" * (400 << 20)))]}


def dawdle(path: str) -> dict[str, Any]:  # noqa: ARG001
    """What must be caught: a program that does not end."""
    while True:
        time.process_time()


READERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "checkpoint": read_checkpoint,
    "unpickle": unpickle,
    "waste": waste,
    "dawdle": dawdle,
}


def attempt(read: Callable[[str], dict[str, Any]], path: str, seconds: float) -> dict[str, Any]:
    """What came of a row."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return read(path)
    except CheckpointError as error:
        return {"refused": error.rule, "sentence": str(error)}
    except InputError as error:
        return {"refused": "InputError", "sentence": str(error)}
    except (Exception, TooSlow):
        return {"crash": traceback.format_exc(limit=-8)[-3000:]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def on_alarm(number: int, frame: object) -> None:  # noqa: ARG001
    raise TooSlow


def say(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def main() -> None:
    job = json.loads(sys.stdin.readline())
    read, seconds = READERS[job["reader"]], job.get("seconds", SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    signal.signal(signal.SIGPROF, on_alarm)
    for path in job["warm"]:
        read_checkpoint(path)
    with suppress(ValueError):
        b"\\u0041".decode("raw-unicode-escape")  # its codec is looked up when first needed
    memory, guard = Memory(), Guard()
    sys.addaudithook(guard)
    for name, path in job["rows"]:
        say({"begins": name})
        guard.events.clear()
        memory.start()
        # Who waits within C hears no alarm; this ends the whole process.
        faulthandler.dump_traceback_later(MOST_WAITING, exit=True)
        guard.up = True
        outcome = attempt(read, path, seconds)
        guard.up = False
        faulthandler.cancel_dump_traceback_later()
        say({"name": name, **outcome, "grown": memory.growth(), "events": guard.events})


if __name__ == "__main__":
    main()

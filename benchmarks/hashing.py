"""What hashing alone takes: `b3sum`, and the library that this program hashes with."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from measuring import in_turn, seconds_of
from table import Row, not_measured, within

_PROGRAM = (
    "import sys, time; from blake3 import blake3; started = time.perf_counter();"
    "[blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest() for path in sys.argv[1:]];"
    "print(time.perf_counter() - started)"
)
BLAKE3 = [sys.executable, "-c", _PROGRAM]
"""Hash the files that follow, and say the seconds of that."""


def within_b3sum(what: str, command: Sequence[str | Path], path: Path, runs: int, times: float | None = 1.3) -> Row:
    """A whole process beside `b3sum` of the file that it reads."""
    what = f"{what} / b3sum"
    b3sum = shutil.which("b3sum")
    if b3sum is None:
        return not_measured(what, "b3sum is not installed")
    return within(what, in_turn(seconds_of(command), seconds_of([b3sum, path]), runs), times)

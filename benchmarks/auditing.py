"""Auditing a stranger's file, beside reading it once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from hashing import within_b3sum
from measuring import MANIFEST, imported_by, in_turn, run, seconds_of
from place import Place, gigabytes
from table import Row, in_memory, quick, within

_READING = (
    "import sys; block = memoryview(bytearray(1 << 22)); file = open(sys.argv[1], 'rb', buffering=0)\n"
    "while file.readinto(block): pass"
)


def _from_disk(path: Path, measure: Callable[[], float]) -> Callable[[], float]:
    """The same after the file's pages were dropped from memory."""

    def measured() -> float:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return measure()

    return measured


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time and memory of `manifest audit` of the model that is saved, without its manifest."""
    for name, precision in (("bare.safetensors", "float32"), ("bare.pt", "float32"), ("bare16.pt", "float16")):
        yield from _rows(place, place.bare(name, precision), f"{precision} {Path(name).suffix}", runs)


def _rows(place: Place, path: Path, kind: str, runs: int) -> Iterator[Row]:
    command = [*MANIFEST, "audit", path, "--output", place.directory / "audit.txt"]
    what = f"manifest audit of {place.sizes.saved}, {kind}, {gigabytes(path)}, whole process"
    reading = [sys.executable, "-c", _READING, path]
    auditing, reads = seconds_of(command), seconds_of(reading)
    yield within(f"{what} / reading the file once", in_turn(auditing, reads, runs), 1.5)
    yield within_b3sum(what, command, path, runs, None)
    cold = in_turn(_from_disk(path, auditing), _from_disk(path, reads), runs)
    yield within(f"{what} / reading the file once, both from the disk", cold, 1.5)
    fast = seconds_of([*command, "--fast"])
    yield quick(f"{what}, by samples (--fast)", fast, runs, 0.5)
    yield in_memory(f"{what}, peak memory without the mapped file (RssAnon)", run(command, look=True), 300e6)
    torch = "torch" in imported_by(command)
    yield Row(f"{what}, torch", "imported" if torch else "not imported", "", "", "not imported", not torch)

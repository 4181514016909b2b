"""Starting the commands that read no weights."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from measuring import MANIFEST, imports_torch, run
from place import Place
from table import Row


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Time of `--help` and of `show`, and whether they import torch."""
    for name, arguments in (("--help", ["--help"]), ("show", ["show", place.signed])):
        command = [*MANIFEST, *arguments]
        seconds = statistics.median(run(command).seconds for _ in range(runs))
        torch = imports_torch(command)
        words = f"{seconds:.2f} s, torch {'imported' if torch else 'not imported'}"
        yield Row(f"manifest {name}, whole process", words, "", words, "< 0.5 s, no torch", seconds < 0.5 and not torch)

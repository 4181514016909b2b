"""The contracts of speed and memory, as ratios on this machine: `python benchmarks/run.py [--quick] [--only GROUP]`.

Every comparison runs both sides in turn after a warm-up and takes the median of the ratios, pair by pair. A contract
that is missed is printed as missed; nothing here fails a build, since a ratio on a busy machine is no test.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import auditing
import counting
import golden
import loading
import reading
import saving
import starting
import verifying
from place import FULL, QUICK, Place
from rich.console import Console
from rich.table import Table

GROUPS = {
    "verifying": verifying.rows,
    "starting": starting.rows,
    "loading": loading.rows,
    "saving": saving.rows,
    "golden": golden.rows,
    "reading": reading.rows,
    "auditing": auditing.rows,
    "counting": counting.rows,
}


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the contracts of speed and memory.")
    options.add_argument("--quick", action="store_true", help="smaller models: 0.6 GB instead of 2")
    options.add_argument("--runs", type=int, default=5, help="measurements of each side (5)")
    options.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="which groups (all)")
    chosen = options.parse_args()
    sizes = QUICK if chosen.quick else FULL
    console = Console(width=max(140, Console().width))
    console.print(
        f"{os.cpu_count()} cores; {sizes.large} in {sizes.large_precision}, and {sizes.saved}; medians of {chosen.runs}"
    )
    table = Table("", "this", "other", "found", "contract", "")
    with tempfile.TemporaryDirectory(prefix="manifest-bench-") as name:
        place = Place(Path(name), sizes)
        for group in chosen.only:
            for row in GROUPS[group](place, chosen.runs):
                verdict = {True: "kept", False: "MISSED", None: ""}[row.kept]
                table.add_row(row.what, row.ours, row.theirs, row.found, row.contract, verdict)
    console.print(table)


if __name__ == "__main__":
    main()

"""The contracts of speed and memory, as ratios on this machine: `python benchmarks/run.py [--quick] [--only GROUP]`.

Every comparison runs both sides in turn after a warm-up and takes the median of the ratios, pair by pair. A contract
that is missed is printed as missed; nothing here fails a build, since a ratio on a busy machine is no test. With
`--write`, the rows go to `results.json`, and from there to `docs/benchmarks.md`, `docs/estimate.md` and the README; see
`page.py` and `estimate.py`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import auditing
import counting
import estimate
import golden
import kinship
import loading
import page
import peers
import rates
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
    "kinship": kinship.rows,
    "peers": peers.rows,
    "rates": rates.rows,
}


def main() -> None:
    options = argparse.ArgumentParser(description="Measure the contracts of speed and memory.")
    options.add_argument("--quick", action="store_true", help="smaller models: 0.6 GB instead of 2")
    options.add_argument("--runs", type=int, default=5, help="measurements of each side (5)")
    options.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="which groups (all)")
    options.add_argument("--write", action="store_true", help="write the rows into the documentation")
    chosen = options.parse_args()
    console = Console(width=max(140, Console().width))
    console.print(page.machine(chosen.runs))
    table = Table("", "this", "other", "found", "contract", "")
    with tempfile.TemporaryDirectory(prefix="manifest-bench-") as name:
        place = Place(Path(name), QUICK if chosen.quick else FULL)
        for group in chosen.only:
            rows = list(GROUPS[group](place, chosen.runs))
            for row in rows:
                table.add_row(row.what, row.ours, row.theirs, row.found, row.contract, row.verdict)
            if chosen.write:
                page.keep(group, rows, chosen.runs)
    console.print(table)
    if chosen.write:
        page.write()
        estimate.write()


if __name__ == "__main__":
    main()

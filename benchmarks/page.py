"""The page of measurements, `docs/benchmarks.md`, and the part of the README about it, out of `results.json`.

`python benchmarks/page.py` writes them again; a test holds both to what is in `results.json`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from table import Row

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "results.json"
PAGE = _ROOT / "docs" / "benchmarks.md"
README = _ROOT / "README.md"
_BEGIN, _END = "<!-- benchmarks -->", "<!-- /benchmarks -->"
_HEADLINES = (
    "verify --fast of 2.07 GB, whole process / b3sum",
    "load open_clip ViT-L-14.safetensors, integrity checked / open_clip",
    "save ViT-L-14.pt, no golden outputs, with fsync / torch.save and",
    "torch.save ViT-L-14, recorded, golden outputs, call / torch.save and",
)
"""How the rows begin that the README shows."""
_COLUMNS = ("what", "ours", "theirs", "found", "contract", "verdict")


def machine(runs: int) -> str:
    """What was measured on, in a line."""
    return f"{_processor()}, {os.cpu_count()} cores, torch {version('torch')}, medians of {runs}"


def keep(group: str, rows: Sequence[Row], runs: int) -> None:
    """Put the rows of a group in the place of those that were measured before."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    known[group] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(runs),
        "rows": [asdict(row) | {"verdict": row.verdict} for row in rows],
    }
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write() -> None:
    """Write the page, and the part of the README."""
    known = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(known), encoding="utf-8")
    README.write_text(with_part(README.read_text(encoding="utf-8"), known), encoding="utf-8")


def page(known: dict[str, Any]) -> str:
    """The page, as Markdown."""
    parts = [
        "# Measurements\n\n"
        "Written by `python benchmarks/run.py --write`. Each row is measured in one run beside its peer or its\n"
        "limit, both in turn after a warm-up; ratios are taken pair by pair. CPU-s are seconds of processors, in all\n"
        "threads. A contract is what the project set itself; those that are missed are called so. What scanners\n"
        "miss is counted in [another page](peers.md), what a fleet would take is reckoned in [a third](estimate.md).\n"
    ]
    for group, measured in known.items():
        parts.append(f"\n## {group.capitalize()}\n\n{measured['date']}: {measured['machine']}.\n\n")
        parts.append(_table(measured["rows"]))
    return "".join(parts)


def with_part(readme: str, known: dict[str, Any]) -> str:
    """The README with its part about the measurements."""
    rows = [row for measured in known.values() for row in measured["rows"]]
    promised = [row for row in rows if row["kept"] is not None]
    kept = sum(row["kept"] for row in promised)
    dates = sorted({measured["date"] for measured in known.values()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    last = max(known.values(), key=lambda measured: measured["date"])
    line = (
        f"[docs/benchmarks.md](docs/benchmarks.md) has all rows: {when}, {last['machine']}; "
        f"{kept} of {len(promised)} contracts were kept. Some of them:"
    )
    shown = _table(row for row in promised if row["what"].startswith(_HEADLINES))
    head, rest = readme.split(_BEGIN)
    return f"{head}{_BEGIN}\n{line}\n\n{shown}{_END}{rest.split(_END)[1]}"


def _table(rows: Iterable[dict[str, Any]]) -> str:
    lines = [" | ".join(row[name] for name in _COLUMNS) for row in rows]
    heads = ["what | this | the other | found | contract | ", " | ".join(["---"] * len(_COLUMNS))]
    return "".join(f"| {line} |\n" for line in (*heads, *lines))


def _processor() -> str:
    """The processor's name, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    write()

"""The page on misses and false alarms, `docs/peers.md`, out of `judged.json`: `python benchmarks/judged_page.py`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
RESULTS = _ROOT / "benchmarks" / "judged.json"
PAGE = _ROOT / "docs" / "peers.md"

OURS = "manifest audit"
ALARM, CLEAN, REFUSED, CRASHED = "alarm", "clean", "refused", "crashed"

CODE = ("runs code when loaded", "names code that did not run")
"""What every scanner of pickles claims to find."""
OTHERS = ("exhausts memory or time", "leads out of its directory", "is broken or contradicts itself")
"""What `manifest audit` alone claims to find."""
HARMLESS = ("as people save", "published")

_HEAD = """# Scanners beside `manifest audit`

Written by `python benchmarks/judging.py --write`, {date}, with {versions}. How fast they are is in
[Measurements](benchmarks.md).

The hostile files are those of this project's own tests, so `manifest audit` was made to find them and its row is a
check, not a contest; the peers never saw them. What a file does was found out by loading it for real: it *runs code*
when `torch.load(weights_only=False)`, `numpy.load(allow_pickle=True)` or another ordinary loader left the file that its
code creates. The harmless files are checkpoints of real libraries as people save them, and those of ten published
packages.

Each tool ends on each file in one of four ways: it raises the *alarm*; it calls the file *clean*; it *refuses*, saying
that it cannot read the file or scanned nothing of it, which nobody takes for a pass; or it *crashes*: a traceback, a
signal, more than {seconds} seconds of the processor or {gigabytes} GiB of addresses. A hostile file that is called
clean is a miss; a harmless one that raises the alarm is a false alarm.
"""


def keep(found: dict[str, Any]) -> None:
    """Put outcomes in the place of those before, and write the page."""
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write()


def write() -> None:
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def page(found: dict[str, Any]) -> str:
    """The page, as Markdown."""
    limits = {"seconds": found["limits"]["seconds"], "gigabytes": found["limits"]["bytes"] >> 30}
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items()) or "no peer"
    return "".join(
        [
            _HEAD.format(date=found["date"], versions=versions, **limits),
            *(f"\nNot measured: {reason}\n" for reason in found["absent"].values()),
            "\n## Files with code\n\n",
            *(_hostile(found, kind) for kind in CODE),
            "\n## Files that harm otherwise\n\n",
            _others(found),
            "\n## Harmless files\n\n",
            _harmless(found),
        ]
    )


def counted(found: dict[str, Any], kinds: Sequence[str]) -> dict[str, Counter[str]]:
    """How often each tool ended in each way on the files of some kinds."""
    counts: dict[str, Counter[str]] = {}
    for file in _of(found, kinds):
        for tool, outcome in file["outcomes"].items():
            counts.setdefault(tool, Counter())[outcome] += 1
    return counts


def _of(found: dict[str, Any], kinds: Sequence[str]) -> list[dict[str, Any]]:
    return [file for file in found["files"] if file["kind"] in kinds]


def _hostile(found: dict[str, Any], kind: str) -> str:
    rows = [
        (tool, count[ALARM], count[REFUSED], f"**{count[CLEAN]}**", count[CRASHED])
        for tool, count in counted(found, [kind]).items()
    ]
    title = f"{len(_of(found, [kind]))} files: {kind}"
    return _table((title, "alarm", "refused", "missed", "crashed"), rows) + _named(found, [kind], CLEAN, "Missed")


def _others(found: dict[str, Any]) -> str:
    """`manifest audit` alone, by kind."""
    rows = [
        (kind, len(_of(found, [kind])), count[ALARM] + count[REFUSED], f"**{count[CLEAN]}**", count[CRASHED])
        for kind in OTHERS
        for count in [counted(found, [kind])[OURS]]
    ]
    return (
        "The peers do not claim to find these, and were not asked.\n\n"
        + _table((OURS, "files", "alarm or refused", "missed", "crashed"), rows)
        + _named(found, OTHERS, CLEAN, "Missed")
    )


def _harmless(found: dict[str, Any]) -> str:
    rows = [
        (tool, count[CLEAN], f"**{count[ALARM]}**", count[REFUSED], count[CRASHED])
        for tool, count in counted(found, HARMLESS).items()
    ]
    title = f"{len(_of(found, HARMLESS))} files: harmless"
    return (
        _table((title, "clean", "false alarms", "refused", "crashed"), rows)
        + _named(found, HARMLESS, ALARM, "False alarms")
        + _named(found, HARMLESS, REFUSED, "Refused")
    )


def _named(found: dict[str, Any], kinds: Sequence[str], outcome: str, title: str) -> str:
    """Which files ended so, of each tool where any did; all of them where that is more than most."""
    lines = []
    files = _of(found, kinds)
    for tool in files[0]["outcomes"]:
        names = [file["name"] for file in files if file["outcomes"][tool] == outcome]
        if names:
            listed = "all" if len(names) == len(files) else "; ".join(f"*{name}*" for name in names).replace("_", r"\_")
            lines.append(f"- {tool}: {listed}.\n")
    return f"\n{title}:\n\n{''.join(lines)}\n" if lines else "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


if __name__ == "__main__":
    write()

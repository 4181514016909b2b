"""What scanners make of hostile files and of harmless ones: misses and false alarms, of this program as of its peers.

`python benchmarks/judging.py [--write]`. The hostile files are those of the project's own tests, `fixtures/hostile`;
what each does was found out by loading it. The harmless ones are `harmless.py`'s. Every tool is asked about every file
of a kind that it claims to judge, in a process of its own; nothing depends on how busy the machine is. With `--write`,
the outcomes go to `judged.json` and from there to `docs/peers.md`; see `judged_page.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import judged_page
from installing import PeerError, environment, version_of
from judged_page import ALARM, CLEAN, CRASHED, OTHERS, OURS, REFUSED

_ROOT = Path(__file__).parents[1]
_SECONDS = 20
"""Of the processor's time: how long a tool takes by the clock says how busy the machine is."""
_ADDRESSES = 8 << 30
"""Bytes that a tool may ask for."""


@dataclass(frozen=True)
class Said:
    """How a tool ended.

    Attributes:
        code: Its exit code; negative where a signal ended it.
        output: What it printed.
    """

    code: int
    output: str

    @property
    def crashed(self) -> bool:
        """Whether it ended in a way that nobody meant: by a signal, out of memory, or out of its limits."""
        return self.code < 0 or "Traceback (most recent call last)" in self.output or "MemoryError" in self.output


@dataclass(frozen=True)
class Tool:
    """One that judges files.

    Attributes:
        name: As the page calls it.
        command: What comes before the path.
        read: What its exit code and its words mean.
    """

    name: str
    command: Sequence[str | Path]
    read: Callable[[Said], str]

    def judge(self, path: Path) -> str:
        """Its outcome on a file: `alarm`, `clean`, `refused` where it says that it could not judge, or `crashed`."""
        said = _ended([*map(str, self.command), str(path)])
        outcome = self.read(said)
        return CRASHED if outcome != ALARM and said.crashed else outcome


def of_manifest(said: Said) -> str:
    """By the reports' words on safety; findings on completeness and the like are no matter of harm."""
    try:
        found = json.loads(said.output)
    except ValueError:
        return REFUSED
    words = {report["safety"] for report in (found if isinstance(found, list) else [found])}
    return ALARM if "unsafe" in words else CLEAN if words == {"safe"} else REFUSED


def of_picklescan(said: Said) -> str:
    """Suspicious names do not change its exit code, and do not count here."""
    counts = dict(line.split(": ") for line in said.output.splitlines() if line.startswith(("Scanned", "Infected")))
    if said.code == 1 or int(counts.get("Infected files", 0)):
        return ALARM
    return CLEAN if said.code == 0 and int(counts.get("Scanned files", 0)) else REFUSED


def of_modelscan(said: Said) -> str:
    """Exit code 1 is a finding; 2 an error, beside which there may be a finding; 3 nothing that it could scan."""
    if said.code == 1 or "Total Issues: " in said.output:
        return ALARM
    return CLEAN if said.code == 0 else REFUSED


def of_fickling(said: Said) -> str:
    word = said.output.strip().rpartition("\n")[2]
    return word if said.code == 0 and word in (ALARM, CLEAN) else REFUSED


def ours() -> Tool:
    return Tool(OURS, [sys.executable, "-m", "manifest", "audit", "--format", "json"], of_manifest)


def picklescan() -> Tool:
    return Tool("picklescan", [environment("picklescan") / "picklescan", "--path"], of_picklescan)


def modelscan() -> Tool:
    return Tool("modelscan", [environment("modelscan") / "modelscan", "--path"], of_modelscan)


def fickling(listed: str) -> Tool:
    program = [environment("fickling") / "python", Path(__file__).with_name("fickling_scan.py"), listed]
    return Tool("fickling" if listed == "default" else "fickling, its list for ML", program, of_fickling)


_PEERS: dict[str, Callable[[], list[Tool]]] = {
    "picklescan": lambda: [picklescan()],
    "modelscan": lambda: [modelscan()],
    "fickling": lambda: [fickling("default"), fickling("ml")],
}


def judged(folder: Path) -> dict[str, Any]:
    """The outcome of every tool on every file, and which peers could not be asked."""
    tools, absent = [ours()], {}
    for name, make in _PEERS.items():
        try:
            tools += make()
        except PeerError as error:
            absent[name] = str(error)
    files = written(folder, "hostile", _ROOT / "fixtures" / "hostile" / "writing.py")
    files += written(folder, "harmless", Path(__file__).with_name("harmless.py"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        asked = [
            # Nobody is asked about what it does not claim to find.
            {
                tool.name: pool.submit(tool.judge, Path(file["path"]))
                for tool in tools[: 1 if file["kind"] in OTHERS else None]
            }
            for file in files
        ]
        outcomes = [{name: each.result() for name, each in row.items()} for row in asked]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version_of(name) for name in _PEERS if name not in absent},
        "absent": absent,
        "limits": {"seconds": _SECONDS, "bytes": _ADDRESSES},
        "files": [
            {"name": file["name"], "kind": file["kind"], "outcomes": row}
            for file, row in zip(files, outcomes, strict=True)
        ],
    }


def written(folder: Path, name: str, script: Path) -> list[dict[str, str]]:
    """The files that a script writes, by its list of them."""
    place = folder / name
    place.mkdir()
    done = subprocess.run([sys.executable, script, place], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script.name} failed:\n{done.stderr[-2000:]}")
    entries: list[dict[str, str]] = json.loads((place / "list.json").read_text(encoding="utf-8"))
    return entries


def _ended(command: list[str]) -> Said:
    """How a process ended, within its limits."""
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),  # some write there, or look for settings
        env=os.environ | {"PYTHONPATH": str(_ROOT), "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=_bounded,
    )
    # Warnings of ours are not of the report, which is alone on standard output.
    output = done.stdout if done.returncode in (0, 1) and done.stdout.startswith(b"{") else done.stdout + done.stderr
    return Said(done.returncode, output.decode(errors="replace"))


def _bounded() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)


def main() -> None:
    options = argparse.ArgumentParser(description="Count misses and false alarms.")
    options.add_argument("--write", action="store_true", help="write the outcomes into the documentation")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="manifest-judging-") as name:
        found = judged(Path(name))
    if chosen.write:
        judged_page.keep(found)
    print(judged_page.page(found))


if __name__ == "__main__":
    main()

"""Fuzz the readers, one target after another: `python fuzz/run.py [--seconds 60] [--seeds DIR]… [TARGET]…`.

What was learned is kept in `fuzz/corpus`, inputs that were not read as they must be in `fuzz/crashes`, where the text
beside each says what happened; they are tried again first. `python fuzz/fuzzing.py --replay FILE` runs one by itself.
Ends with 1 when there is any finding.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TARGETS = ("zip", "legacy", "pickle", "safetensors", "npz", "dcp", "index")
_MOST_INPUT_BYTES = 200_000
_SECONDS_WITHOUT_ANSWER = 60  # for what never gets back to Python, where fuzzing.py's own limit would stop it


@dataclass(frozen=True)
class Fuzzed:
    """What became of one target.

    Attributes:
        executions: How many inputs were read.
        seconds: How long that took.
        findings: One line for each.
    """

    executions: int
    seconds: float
    findings: tuple[str, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all when none is named")
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument(
        "--seeds", type=Path, action="append", default=[], help="a directory with more files to begin with"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    crashes = HERE / "crashes"
    crashes.mkdir(exist_ok=True)
    table = Table("target", "executions", "a second", "findings")
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder)
        write_seeds(seeds, arguments.seeds)
        for target in arguments.targets or TARGETS:
            fuzzed = fuzz(target, seeds / target, crashes, arguments.seconds)
            found += len(fuzzed.findings)
            rate = fuzzed.executions / max(fuzzed.seconds, 1)
            table.add_row(target, f"{fuzzed.executions:,}", f"{rate:,.0f}", "\n".join(fuzzed.findings) or "none")
            print(f"{target}: {fuzzed.executions:,} executions, {len(fuzzed.findings)} findings", flush=True)
    Console().print(table)
    return int(found > 0)


def write_seeds(folder: Path, extra: list[Path]) -> None:
    """Have `seeding.py` do it; torch stays out of the processes that follow."""
    command = [sys.executable, "-W", "ignore", HERE / "seeding.py", folder, *extra]
    subprocess.run(command, check=True, stderr=subprocess.PIPE)


def fuzz(target: str, seeds: Path, crashes: Path, seconds: int) -> Fuzzed:
    """Fuzz one target in a process of its own."""
    corpus = HERE / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for path in crashes.glob(f"{target}-*"):
        if path.suffix != ".txt":
            shutil.copy(path, seeds)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={_MOST_INPUT_BYTES}",
        f"-timeout={_SECONDS_WITHOUT_ANSWER}",
        f"-artifact_prefix={crashes / target}-",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    command = [sys.executable, HERE / "fuzzing.py", target, crashes, *options, corpus, seeds]
    began = time.monotonic()
    ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    output = ended.stdout + ended.stderr
    executions = re.search(r"number_of_executed_units: (\d+)", output) or re.search(r"\n#(\d+)\s(?!.*\n#)", output)
    findings = re.findall(r"^FINDING (.*)", output, re.MULTILINE)
    if ended.returncode:
        findings.append(f"the process ended with {ended.returncode}: {' '.join(output[-600:].split())}")
    return Fuzzed(int(executions[1]) if executions else 0, time.monotonic() - began, tuple(findings))


if __name__ == "__main__":
    sys.exit(main())

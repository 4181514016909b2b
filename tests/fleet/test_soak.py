"""Thousands of checkpoints, by a command that is killed twice: each has one result, and it is the right one.

An ordinary run does some hundreds of them, `--whole` does ten thousand; with `-s`, it says how long that took.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.fleet.population import populate

_MOST_MEMORY = 600 << 10
"""Kibibytes of the largest process."""
_MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
"""A command, and the memory of the largest of its processes as the system counts it, without that of these tests."""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of processes is counted as Linux does")
def test_each_of_thousands_has_one_result_after_two_kills(tmp_path: Path, whole: bool) -> None:
    soak("local", tmp_path, whole=whole)


def soak(engine: str, tmp_path: Path, *, whole: bool) -> None:
    """Audit thousands of checkpoints by a command that is killed twice."""
    folder, journal = tmp_path / "many", tmp_path / "results.jsonl"
    expected = populate(folder, 10_000 if whole else 300)
    command = [sys.executable, "-m", "manifest", "audit", str(folder), "--journal", str(journal)]
    command += ["--engine", engine, "--quiet"]
    for part in (1, 2):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and _count(journal) < part * len(expected) // 3:
            time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done, began = _count(journal), time.monotonic()
    assert len(expected) // 2 < done < len(expected)
    last = subprocess.run([sys.executable, "-c", _MEASURED, *command], cwd=tmp_path, capture_output=True, check=False)
    seconds, memory = time.monotonic() - began, int(last.stdout.split()[-1])
    assert last.returncode == 1
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert Counter(line["path"] for line in lines) == Counter(dict.fromkeys(expected, 1))
    found = {line["path"]: (_exit_code(line["report"]), line["report"]["safety"]) for line in lines}
    assert {path: each for path, each in found.items() if each != expected[path]} == {}
    assert not list(tmp_path.rglob("ran"))  # what the hostile ones would do
    print(f"{engine}: {len(lines) - done:,} of {len(lines):,} in {seconds:.0f} s, {memory / 1024:.0f} MiB")
    assert memory < _MOST_MEMORY


def _count(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def _exit_code(report: dict[str, object]) -> int:
    from manifest.schema.report import Report

    return Report.model_validate(report).exit_code

"""Results that are kept while many checkpoints are checked, so that a run that was killed goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Answer

Run = Callable[..., Answer]
MANY = 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder `many` of checkpoints, one of them broken and one hostile."""
    folder = tmp_path / "many"
    folder.mkdir()
    torch.save({f"layers.{number}.weight": torch.randn(64, 64) for number in range(20)}, folder / "00.pt")
    for number in range(1, MANY):
        shutil.copy(folder / "00.pt", folder / f"{number:02}.pt")
    (folder / "05.pt").write_bytes(b"PK\x03\x04broken")
    torch.save({"weight": torch.zeros(2), "config": _Runs()}, folder / "07.pt")
    return folder


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def lines(journal: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in journal.read_text().splitlines()]


def opened(answer: Answer) -> int:
    """How many checkpoints a verbose command opened."""
    return sum(line.startswith("manifest: opened ") for line in answer.err.splitlines())


def test_second_run_checks_nothing_again_and_says_the_same(folder: Path, run: Run) -> None:
    first = run("audit", folder, "--journal", "results.jsonl")
    assert first.code == 1
    assert len(lines(folder.parent / "results.jsonl")) == MANY
    second = run("audit", folder, "--journal", "results.jsonl", "--verbose")
    assert (second.code, second.out) == (first.code, first.out)
    assert opened(second) == 0


def test_file_that_was_changed_and_a_new_one_are_checked_and_the_rest_is_not(folder: Path, run: Run) -> None:
    run("audit", folder, "--journal", "results.jsonl")
    torch.save({"weight": torch.randn(8, 8)}, folder / "03.pt")
    torch.save({"weight": torch.randn(8, 8)}, folder / "new.pt")
    again = run("audit", folder, "--journal", "results.jsonl", "--verbose")
    assert opened(again) == 2
    assert f"of {MANY + 1} pass" in again.out


def test_other_question_is_asked_of_every_file(folder: Path, run: Run) -> None:
    run("audit", folder, "--journal", "results.jsonl")
    run("audit", folder, "--journal", "results.jsonl", "--fast")
    assert len(lines(folder.parent / "results.jsonl")) == 2 * MANY


def test_run_that_was_killed_goes_on_where_it_was(folder: Path, run: Run) -> None:
    journal = folder.parent / "results.jsonl"
    command = [sys.executable, "-m", "manifest", "audit", str(folder), "--journal", str(journal)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not (journal.exists() and len(journal.read_bytes().splitlines()) > 3):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    with journal.open("ab") as file:
        file.write(b'{"path": "many/09.pt", "as')  # what a write that was cut off leaves
    whole = run("audit", folder, "--journal", journal)
    assert whole.out == run("audit", folder).out
    assert sorted(line["path"] for line in lines(journal)) == sorted(str(path) for path in folder.iterdir())


def test_file_that_is_no_journal_is_refused_and_left_alone(folder: Path, run: Run) -> None:
    path = folder.parent / "notes.txt"
    path.write_text("mine\n")
    assert (
        "notes.txt is no journal of this command; name another file."
        in run("audit", folder, "--journal", "notes.txt").complaint
    )
    assert path.read_text() == "mine\n"


def test_journal_of_a_running_process_is_refused(folder: Path, run: Run) -> None:
    pytest.importorskip("fcntl")
    holding = (
        "import fcntl, sys; file = open('results.jsonl', 'ab'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True)"
    )
    command = [sys.executable, "-c", f"{holding}; sys.stdin.read()"]
    with subprocess.Popen(command, cwd=folder.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "Another process writes results.jsonl" in run("audit", folder, "--journal", "results.jsonl").complaint
        process.kill()

"""Many checkpoints are checked in processes side by side, and nobody sees a difference but in the time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import manifest
from manifest.errors import InputError
from manifest.fleet import mapping
from manifest.fleet.engines import LostError
from manifest.fleet.mapping import checked
from manifest.fleet.processes import run
from manifest.schema.report import Kind, Report
from manifest.workflows.verifying import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping.os, "sched_getaffinity", lambda _: {0, 1})


def _told(reports: dict[int, Report]) -> list[tuple[object, ...]]:
    return [
        (each.path, each.subject, each.error, [(rung.name, rung.outcome, rung.reason) for rung in each.rungs])
        for _, each in sorted(reports.items())
    ]


def files(folder: Path, count: int = 12) -> list[Path]:
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        path.touch()
    return paths


def dying(number: int) -> None:
    """End the process that does one of some things."""
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)


def test_reports_out_of_processes_are_those_of_one_process(tmp_path: Path, digits: ModuleType) -> None:
    paths = [tmp_path / f"{number}.pt" for number in range(10)]
    for path in paths:
        shutil.copy(digits.WEIGHTS, path)
        shutil.copy(f"{digits.WEIGHTS}.manifest.json", f"{path}.manifest.json")
    paths[3].write_bytes(b"broken")
    paths[5].with_name("5.pt.manifest.json").unlink()
    paths[7] = tmp_path / "not there.pt"
    paths[8] = tmp_path / ("long" * 200)
    check = partial(verify, fast=True)
    together = dict(checked(paths, check, Kind.VERIFY, in_processes=True))
    alone = dict(checked(paths, check, Kind.VERIFY))
    assert _told(together) == _told(alone)
    assert {number for number, each in together.items() if not each.passed} == {3, 5, 7, 8}


def test_checks_are_done_in_processes_and_those_of_large_files_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_LARGE", 100)
    paths = files(tmp_path, 10)
    paths[4].write_bytes(bytes(100))

    def who(path: Path) -> Report:
        return Report(kind=Kind.AUDIT, subject=str(os.getpid()), path=str(path))

    done = dict(checked(paths, who, Kind.AUDIT, in_processes=True))
    assert [number for number, each in done.items() if each.subject == str(os.getpid())] == [4]
    few = dict(checked(paths[:3], who, Kind.AUDIT, in_processes=True))
    assert {each.subject for each in few.values()} == {str(os.getpid())}
    asked_for = dict(checked(paths[:3], who, Kind.AUDIT, workers=1))
    assert len({each.subject for each in asked_for.values()} - {str(os.getpid())}) == 1


def test_file_that_ends_its_process_twice_is_the_only_one_without_a_report(tmp_path: Path) -> None:
    """As the system ends a process where memory is short."""
    paths = files(tmp_path)

    def check(path: Path) -> Report:
        dying(int(path.name))
        return Report(kind=Kind.AUDIT, subject=path.name)

    done = dict(checked(paths, check, Kind.AUDIT, in_processes=True))
    assert [done[number].subject for number in range(12)] == [path.name for path in paths]
    assert [number for number, report in done.items() if report.error] == [5]
    assert "5 ended the process that checked it, twice" in str(done[5].error)


def test_file_whose_process_was_ended_once_is_checked_again(tmp_path: Path) -> None:
    """As of a process beside one that took all memory."""
    paths, mark = files(tmp_path), tmp_path / "mark"

    def check(path: Path) -> Report:
        if path.name == "5" and not mark.exists():
            mark.touch()
            dying(5)
        return Report(kind=Kind.AUDIT, subject=path.name)

    done = dict(checked(paths, check, Kind.AUDIT, in_processes=True))
    assert sorted(done) == list(range(12))
    assert not any(report.error for report in done.values())


def test_check_that_refuses_or_fails_is_a_report_and_stops_nothing(tmp_path: Path) -> None:
    def check(path: Path) -> Report:
        if path.name == "6":
            raise InputError("6 is none.")
        if path.name == "7":
            raise ZeroDivisionError("by\n7")
        return Report(kind=Kind.AUDIT, subject=path.name)

    for in_processes in (True, False):
        done = dict(checked(files(tmp_path), check, Kind.AUDIT, in_processes=in_processes))
        assert [number for number, report in sorted(done.items()) if report.error] == [6, 7]
        assert done[6].error == "6 is none."
        assert str(done[7].error).endswith("/7 ended its check by ZeroDivisionError: by 7; please report it.")


def test_things_are_taken_as_the_work_goes_on_and_each_has_one_result() -> None:
    taken: list[int] = []

    def things() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    def answer(number: int) -> int:
        dying(number)
        return number * number

    found: dict[int, int | LostError] = {}
    for number, result in run(answer, things(), 2):
        assert number not in found
        found[number] = result
        assert len(taken) - len(found) <= 8
    assert isinstance(found.pop(5), LostError)
    assert found == {number: number * number for number in range(200) if number != 5}


def test_processes_end_with_the_one_that_made_them(tmp_path: Path) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from manifest.fleet.processes import run
def work(number):
    Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(600)
list(run(work, range(9), 3))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        _until(lambda: len(list(tmp_path.iterdir())) == 3)
        process.kill()
    _until(lambda: not any(_runs(int(path.name)) for path in tmp_path.iterdir()))


def test_check_is_sent_to_processes_where_torch_is_in_use(tmp_path: Path, digits: ModuleType) -> None:
    for number in range(8):
        shutil.copy(digits.WEIGHTS, tmp_path / f"{number}.safetensors")
    assert "torch" in sys.modules
    check = partial(manifest.audit, fast=True)
    reports = list(manifest.fleet.map(check, sorted(tmp_path.iterdir()), workers=2))
    assert {report.safety for report in reports} == {"safe"}
    assert sorted(report.subject for report in reports) == [f"{number}.safetensors" for number in range(8)]


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

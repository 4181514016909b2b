"""Many checkpoints are checked in processes side by side, and nobody sees a difference but in the time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from manifest.errors import InputError
from manifest.schema.report import Kind, Report
from manifest.workflows import several
from manifest.workflows.several import check_each
from manifest.workflows.verifying import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture(autouse=True)
def _two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several.os, "sched_getaffinity", lambda _: {0, 1})


def _fast(path: Path) -> Report:
    return verify(path, fast=True)


def _told(reports: dict[int, Report]) -> list[tuple[object, ...]]:
    return [
        (each.path, each.subject, each.error, [(rung.name, rung.outcome, rung.reason) for rung in each.rungs])
        for _, each in sorted(reports.items())
    ]


def test_reports_out_of_processes_are_those_of_one_process(tmp_path: Path, digits: ModuleType) -> None:
    paths = [tmp_path / f"{number}.pt" for number in range(10)]
    for path in paths:
        shutil.copy(digits.WEIGHTS, path)
        shutil.copy(f"{digits.WEIGHTS}.manifest.json", f"{path}.manifest.json")
    paths[3].write_bytes(b"broken")
    paths[5].with_name("5.pt.manifest.json").unlink()
    paths[7] = tmp_path / "not there.pt"
    paths[8] = tmp_path / ("long" * 200)
    together = dict(check_each(paths, _fast, Kind.VERIFY, in_processes=True))
    alone = dict(check_each(paths, _fast, Kind.VERIFY))
    assert _told(together) == _told(alone)
    assert {number for number, each in together.items() if not each.passed} == {3, 5, 7, 8}


def test_checks_are_done_in_processes_and_large_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several, "_LARGE", 100)
    paths = [tmp_path / str(number) for number in range(10)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(100 if number == 4 else 10))

    def who(path: Path) -> Report:
        return Report(kind=Kind.AUDIT, subject=str(os.getpid()), path=str(path))

    done = dict(check_each(paths, who, Kind.AUDIT, in_processes=True))
    assert [number for number, each in done.items() if each.subject == str(os.getpid())] == [4]
    few = dict(check_each(paths[:3], who, Kind.AUDIT, in_processes=True))
    assert {each.subject for each in few.values()} == {str(os.getpid())}


def test_checks_go_on_where_a_process_is_killed(tmp_path: Path) -> None:
    """As the system does where memory is short."""
    paths = [tmp_path / str(number) for number in range(12)]
    for path in paths:
        path.touch()
    here = os.getpid()

    def check(path: Path) -> Report:
        if path.name == "5" and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        if path.name == "6":
            raise InputError("6 is none.")
        return Report(kind=Kind.AUDIT, subject=path.name)

    done = dict(check_each(paths, check, Kind.AUDIT, in_processes=True))
    assert [done[number].subject for number in range(12)] == [path.name for path in paths]
    assert done[6].error == "6 is none."


def test_what_nobody_expects_ends_the_work_and_its_processes(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(12)]
    for path in paths:
        path.touch()

    def check(path: Path) -> Report:
        raise ZeroDivisionError(path.name)

    with pytest.raises(ZeroDivisionError):
        dict(check_each(paths, check, Kind.AUDIT, in_processes=True))
    for child in multiprocessing.active_children():
        child.join(10)
        assert not child.is_alive()

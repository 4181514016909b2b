"""`make sweep` does every case that `make test` leaves out, and only a run of all of them is noted down as whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLACES = (ROOT / "tests" / "swept.txt").read_text(encoding="utf-8").split()


@pytest.fixture
def hooks(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The root `conftest.py`, which notes down its sweeps in a file of this test."""
    path = str(ROOT / "tests" / "conftest.py")
    found = next(each for each in pytestconfig.pluginmanager.get_plugins() if getattr(each, "__file__", "") == path)
    assert isinstance(found, ModuleType)
    monkeypatch.setattr(found, "_LAST_SWEEP", tmp_path / "cache" / "sweep.json")
    return found


def session(*places: str, whole: bool = True, stopped: bool = False, **options: Any) -> Any:
    """What pytest knows of a run that was asked for with these arguments."""
    stats = {"passed": ["one", "two"], "failed": ["three"]}
    reporter = SimpleNamespace(stats=stats)
    config = SimpleNamespace(
        args=list(places),
        invocation_params=SimpleNamespace(dir=ROOT),
        option=SimpleNamespace(**options),
        getoption=lambda name: {"--whole": whole}[name],
        pluginmanager=SimpleNamespace(get_plugin=lambda name: {"terminalreporter": reporter}[name]),
    )
    return SimpleNamespace(config=config, shouldstop=stopped, shouldfail=False)


def test_places_that_have_more_cases_with_whole_are_all_swept() -> None:
    asking = re.compile(r"""getoption\("--whole"|\bwhole: bool|mark\.whole|\bsampled\(""")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_*.py")
        if asking.search(path.read_text(encoding="utf-8")) and path != Path(__file__)
    }
    assert found
    assert [path for path in sorted(found) if not path.startswith(tuple(PLACES))] == []
    assert all((ROOT / place).exists() for place in PLACES)
    assert "--whole $$(cat tests/swept.txt)" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_whole_run_is_noted_down_and_told_at_the_start_of_the_next(
    hooks: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks.pytest_sessionstart(session(*PLACES))
    assert capsys.readouterr().out == "last whole run: none is known here\n"
    hooks.pytest_sessionfinish(session(*PLACES), 1)
    noted = json.loads((tmp_path / "cache" / "sweep.json").read_text(encoding="utf-8"))
    assert noted.keys() == {"ended", "version", "passed", "failed", "error", "skipped"}
    assert (noted["passed"], noted["failed"]) == (2, 1)
    hooks.pytest_sessionstart(session(*PLACES))
    assert capsys.readouterr().out.startswith(f"last whole run: ended {noted['ended']}, version {noted['version']}, ")
    hooks.pytest_sessionstart(session(*PLACES, whole=False))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (session(*PLACES, whole=False), 0),
        (session(*PLACES[1:]), 0),
        (session(f"{PLACES[0]}::test_one", *PLACES[1:]), 0),
        (session(*PLACES, keyword="digits"), 0),
        (session(*PLACES, markexpr="not whole"), 0),
        (session(*PLACES, maxfail=1), 1),
        (session(*PLACES, deselect=["tests/sweep"]), 0),
        (session(*PLACES, lf=True), 0),
        (session(*PLACES, collectonly=True), 0),
        (session(*PLACES, stopped=True), 1),
        (session(*PLACES), 2),
        (session(*PLACES), 5),
    ],
    ids=[
        "a sample", "a place left out", "one test of a place", "-k", "-m", "-x", "--deselect", "--lf",
        "--collect-only", "stopped", "interrupted", "no tests",
    ],
)  # fmt: skip
def test_run_of_less_is_not_noted_down(run: Any, status: int, hooks: Any, tmp_path: Path) -> None:
    hooks.pytest_sessionfinish(run, status)
    assert not (tmp_path / "cache").exists()

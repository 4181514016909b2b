"""Kinds of journals: what they hold, and what is left of a run that ended too early."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import manifest
from manifest.errors import InputError
from manifest.schema.report import Report
from tests.conftest import Answer
from tests.fleet.population import copies
from tests.remote.servers import serving

ENDINGS = ("jsonl", "sqlite", "parquet")


@pytest.fixture
def folder(tmp_path: Path, digits: ModuleType) -> Path:
    """Nine checkpoints, of which one is broken."""
    return copies(digits.WEIGHTS, tmp_path / "many", 9, broken=4)


def rows(journal: Path) -> list[dict[str, Any]]:
    """What is in a journal, by those who read such files."""
    if journal.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return list(parquet.read_table(journal).to_pylist())
    if journal.suffix == ".sqlite":
        database = sqlite3.connect(journal)
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM results")]
    return [json.loads(line) for line in journal.read_text().splitlines()]


def require(ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")


@pytest.mark.parametrize("ending", ENDINGS)
def test_journal_has_each_checkpoint_once_and_a_later_run_reads_it(
    ending: str, folder: Path, run: Callable[..., Answer]
) -> None:
    require(ending)
    journal = folder.parent / f"results.{ending}"
    first = run("audit", folder, "--journal", journal)
    again = run("audit", folder, "--journal", journal, "--verbose")
    assert (again.code, again.out) == (first.code, first.out) == (1, first.out)
    assert "opened" not in again.err
    found = rows(journal)
    assert Counter(row["path"] for row in found) == Counter(map(str, folder.iterdir()))
    broken = next(row for row in found if row["path"].endswith("4.safetensors"))
    if ending != "jsonl":
        assert (broken["exit_code"], broken["safety"], broken["rules"]) == (1, "unreadable", "F001")
        assert Report.model_validate_json(broken["report"]).subject == "4.safetensors"


@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_is_checked_again_where_that_is_asked_for(
    ending: str, folder: Path, run: Callable[..., Answer]
) -> None:
    require(ending)
    journal = folder.parent / f"results.{ending}"
    run("audit", folder, "--journal", journal)
    again = run("audit", folder, "--journal", journal, "--no-cache", "--workers", "1")
    assert again.code == 1
    assert len(rows(journal)) == (18 if ending == "jsonl" else 9)


@pytest.mark.parametrize("ending", ENDINGS)
def test_run_that_was_stopped_goes_on_where_it_was(ending: str, folder: Path) -> None:
    require(ending)
    journal = folder.parent / f"results.{ending}"
    reports = manifest.fleet.map(partial(manifest.audit, fast=True), sorted(folder.iterdir()), journal=journal)
    for _ in range(3):
        next(reports)
    reports.close()
    assert len(rows(journal)) == 3
    done = list(manifest.fleet.map(partial(manifest.audit, fast=True), sorted(folder.iterdir()), journal=journal))
    assert sorted(report.subject for report in done) == sorted(path.name for path in folder.iterdir())
    assert len(rows(journal)) == 9


@pytest.mark.parametrize("ending", ENDINGS)
def test_file_of_another_kind_is_refused_and_left_alone(ending: str, folder: Path, run: Callable[..., Answer]) -> None:
    require(ending)
    journal = folder.parent / f"results.{ending}"
    place = journal.with_name("results.parquet.jsonl") if ending == "parquet" else journal
    place.write_text("mine\n")
    assert "is no journal of this command" in run("audit", folder, "--journal", journal).complaint
    assert place.read_text() == "mine\n"


def test_database_of_somebody_else_is_refused_and_left_alone(folder: Path, run: Callable[..., Answer]) -> None:
    journal = folder.parent / "mine.sqlite"
    with sqlite3.connect(journal) as database:
        database.execute("CREATE TABLE mine (number)")
    before = journal.read_bytes()
    assert "is no journal of this command" in run("audit", folder, "--journal", journal).complaint
    assert journal.read_bytes() == before


def test_checks_that_cannot_be_told_from_each_other_are_refused(folder: Path) -> None:
    def mine(path: Path) -> Report:
        return manifest.audit(path)

    journal, paths = folder.parent / "results.jsonl", sorted(folder.iterdir())
    with pytest.raises(InputError, match="cannot tell this check from others"):
        list(manifest.fleet.map(mine, paths, journal=journal))
    assert len(list(manifest.fleet.map(mine, paths, journal=journal, asked=["mine"]))) == 9


def test_engine_of_another_name_is_refused_and_a_function_is_one(folder: Path) -> None:
    def backwards(function: Any, items: Any, workers: int | None) -> Any:
        del workers
        for item in reversed(list(items)):
            yield item, function(item)

    paths = sorted(folder.iterdir())
    with pytest.raises(InputError, match="There is no engine slurm; name local or ray"):
        list(manifest.fleet.map(manifest.audit, paths, engine="slurm"))
    reports = manifest.fleet.map(manifest.audit, paths, engine=backwards)
    assert [report.subject for report in reports] == [path.name for path in reversed(paths)]


def test_checkpoint_at_an_address_is_checked_again_where_its_server_has_another(
    folder: Path, run: Callable[..., Answer]
) -> None:
    with serving(folder) as server:
        words = ("audit", f"{server.address}/1.safetensors", "--journal", "results.jsonl", "--verbose")
        assert "opened" in run(*words).err
        assert "opened" not in run(*words).err
        shutil.copy(folder / "4.safetensors", folder / "1.safetensors")
        assert run(*words).code == 1

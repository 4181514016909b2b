"""Builds the tables of hostile files, and opens each table in one child process under guard."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hostile_building import CANARY
from hostile_tables import ROWS

from manifest.checkpoint.pickles.effects import Effect
from manifest.checkpoint.pickles.named_globals import judge

HERE = Path(__file__).parent


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "hostile_row" in metafunc.fixturenames:
        keys = [(table, name) for table, rows in ROWS.items() for name in rows]
        metafunc.parametrize("hostile_row", keys, ids=[f"{table}: {name}" for table, name in keys])


def runs_code(name: str) -> bool:
    """Whether a real unpickler would run somebody's code by importing this and calling it."""
    return judge(name).effect in (Effect.CODE, Effect.UNKNOWN)


class Child:
    """Runs `opening_under_guard.py` over some paths."""

    def __init__(self, warm: Iterable[Path]) -> None:
        self.warm = [str(path) for path in warm]

    def __call__(self, rows: Iterable[tuple[str, Path]], reader: str = "checkpoint", **job: Any) -> dict[str, Any]:
        """What came of each row, by its name; one that ended the process is known by that."""
        waiting = {name: str(path) for name, path in rows}
        outcomes: dict[str, Any] = {}
        while waiting:
            begun, log = self._run(waiting, outcomes, reader, job)
            for name in outcomes:
                waiting.pop(name, None)
            if not waiting:
                break
            assert begun in waiting, log
            outcomes[begun] = {"crash": f"the process ended: {log}", "grown": 0, "events": []}
            del waiting[begun]
        return outcomes

    def _run(self, rows: dict[str, str], outcomes: dict[str, Any], reader: str, job: dict[str, Any]) -> tuple[str, str]:
        """One process; the name of the last row that it began, and what it said otherwise."""
        script = str(HERE / "opening_under_guard.py")
        request = json.dumps({"warm": self.warm, "rows": list(rows.items()), "reader": reader, **job})
        finished = subprocess.run(
            [sys.executable, script],
            input=request + "\n",
            capture_output=True,
            text=True,
            check=False,
            cwd=HERE.parents[2],
            env={"PYTHONPATH": str(HERE.parents[2]), "PATH": "/usr/bin:/bin"},
            timeout=1200,
        )
        begun = ""
        for line in finished.stdout.splitlines():
            fact = json.loads(line)
            begun = fact.get("begins", begun)
            if "name" in fact:
                outcomes[fact.pop("name")] = fact
        return begun, finished.stderr[-2000:]


@pytest.fixture(scope="session")
def hostile_forge(tmp_path_factory: pytest.TempPathFactory, forge_class: type[Any]) -> Callable[[], Any]:
    """Gives a `Forge` with a folder of its own."""
    return lambda: forge_class(tmp_path_factory.mktemp("row"))


@pytest.fixture(scope="session")
def child(hostile_forge: Callable[[], Any]) -> Child:
    """The guarded process, which first opens one benign file of each container."""
    benign = [row for rows in ROWS.values() for row in rows.values() if "benign" in row.name]
    return Child([row.build(hostile_forge()) for row in benign])


@pytest.fixture(scope="session")
def outcome(child: Child, hostile_forge: Callable[[], Any]) -> Callable[[str, str], Any]:
    """What came of a row; its whole table is built and opened when the first one is asked for."""
    tables: dict[str, dict[str, Any]] = {}

    def run(table: str) -> dict[str, Any]:
        forges = {name: hostile_forge() for name in ROWS[table]}
        paths = {name: ROWS[table][name].build(forge) for name, forge in forges.items()}
        before = {name: sorted(forge.folder.rglob("*")) for name, forge in forges.items()}
        results = child(paths.items())
        for name, forge in forges.items():
            results[name]["path"] = paths[name]
            results[name]["changed"] = sorted(forge.folder.rglob("*")) != before[name]
            results[name]["canary"] = (forge.folder / CANARY).exists()
        return results

    def asked(table: str, name: str) -> Any:
        if table not in tables:
            tables[table] = run(table)
        return ROWS[table][name], tables[table][name]

    return asked


@pytest.fixture(scope="session")
def code_of() -> Callable[[Iterable[str]], list[str]]:
    """The globals that would run code."""
    return lambda names: [name for name in names if runs_code(name)]

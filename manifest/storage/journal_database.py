"""A journal as a database of SQLite: a table `results`, of which each checkpoint has one row.

Each report is a transaction, so a process that is killed leaves those that it added. Others may read meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from manifest.errors import InputError, StorageError
from manifest.escaping import printable
from manifest.schema.report import Report
from manifest.storage.journal import row_of
from manifest.storage.states import State

_PATIENCE = 30  # seconds, where another process writes
_BEGIN = """
CREATE TABLE IF NOT EXISTS results (
    path TEXT PRIMARY KEY, kind TEXT, exit_code INTEGER, safety TEXT, container TEXT, rules TEXT, error TEXT,
    report TEXT, asked TEXT, files TEXT
)
"""


class DatabaseJournal:
    """An open journal."""

    def __init__(self, database: sqlite3.Connection, name: str, asked: str) -> None:
        self._database, self._name, self._asked = database, name, asked

    def recorded(self, path: str) -> tuple[State, Report] | None:
        question = "SELECT files, report FROM results WHERE path = ? AND asked = ?"
        found = self._database.execute(question, (path, self._asked)).fetchone()
        return None if found is None else (json.loads(found[0]), Report.model_validate_json(found[1]))

    def add(self, path: str, state: State, report: Report) -> None:
        row = {**row_of(path, report), "asked": self._asked, "files": json.dumps(state)}
        marks = ", ".join(f":{column}" for column in row)
        try:
            self._database.execute(f"REPLACE INTO results ({', '.join(row)}) VALUES ({marks})", row)
        except sqlite3.OperationalError as error:
            raise StorageError(f"{self._name} cannot be written ({error}); make room for it.") from None


@contextmanager
def opened(path: Path, asked: str) -> Iterator[DatabaseJournal]:
    """A journal at a path, an empty one where there is none.

    Raises:
        InputError: It is none.
        StorageError: It cannot be opened.
    """
    try:
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
    except sqlite3.OperationalError as error:
        raise StorageError(f"{path} cannot be opened ({error}); choose another place.") from None
    with closing(connection) as database:
        try:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if tables - {"results"}:
                raise sqlite3.DatabaseError
            database.execute(_BEGIN)
            database.execute("SELECT path, asked, files, report FROM results LIMIT 1")
            database.execute("PRAGMA journal_mode = WAL")  # a transaction then waits for no disk
            database.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError:
            raise InputError(
                f"{printable(str(path), 1000)} is no journal of this command; name another file."
            ) from None
        yield DatabaseJournal(database, path.name, asked)

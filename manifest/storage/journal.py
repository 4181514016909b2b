"""Reports of many checkpoints in one file, each as soon as it is made; what is there need not be checked again.

What a file holds of a checkpoint is its path, what was asked of it, its state before it was checked (`states`), and its
report. What kind of file it is tells its name: a database of SQLite (`journal_database`), a table of Parquet
(`journal_table`), or else lines of JSON (`journal_lines`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from manifest.schema.report import Report
from manifest.storage.states import State


class Journal(Protocol):
    """An open journal, of reports on one question."""

    def recorded(self, path: str) -> tuple[State, Report] | None:
        """The last report on a checkpoint and its state before, where there is one on the same question."""

    def add(self, path: str, state: State, report: Report) -> None:
        """Add a report in place of an earlier one; it is in the file when this returns.

        Raises:
            StorageError: It cannot be written, as where the disk is full.
        """


@contextmanager
def opened(path: Path, asked: Sequence[object]) -> Iterator[Journal]:
    """The journal at a path, an empty one where there is none.

    Args:
        path: The file.
        asked: What is asked of each checkpoint, as values whose `str` tells one question from another.

    Raises:
        InputError: It is another kind of file, another process writes it, or a library is missing.
        StorageError: It cannot be opened.
    """
    with _of_kind(path, json.dumps([str(each) for each in asked])) as journal:
        yield journal


def _of_kind(path: Path, asked: str) -> AbstractContextManager[Journal]:
    if path.suffix == ".sqlite":
        from manifest.storage import journal_database

        return journal_database.opened(path, asked)
    if path.suffix == ".parquet":
        from manifest.storage import journal_table

        return journal_table.opened(path, asked)
    from manifest.storage import journal_lines

    return journal_lines.opened(path, asked)


def row_of(path: str, report: Report) -> dict[str, Any]:
    """What a table has of a report: columns to search by, and all of it as JSON."""
    return {
        "path": path,
        "kind": report.kind.value,
        "exit_code": report.exit_code,
        "safety": report.safety,
        "container": report.container,
        "rules": " ".join(dict.fromkeys(found.rule for found in report.findings())),
        "error": report.error,
        "report": report.model_dump_json(),
    }

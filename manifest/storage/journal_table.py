"""A journal as a table of Parquet, of which each checkpoint has one row, and lines of JSON beside it.

A file of Parquet cannot be added to. So the reports go to the lines, `NAME.parquet.jsonl`, which is the journal that a
later run goes on from; and the table is made of them at the end of a run, also of one that was interrupted. After a run
that was killed, the next one makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from manifest.errors import InputError
from manifest.installing import install_command
from manifest.storage import journal_lines
from manifest.storage.files import replacing
from manifest.storage.journal import row_of
from manifest.storage.journal_lines import LinesJournal
from manifest.storage.places import storage_errors

_AT_ONCE = 1000
"""Rows that are in memory at a time."""


@contextmanager
def opened(path: Path, asked: str) -> Iterator[LinesJournal]:
    """The lines beside the table at a path; the table is written afterwards.

    Raises:
        InputError: They are no journal, or another process writes it, or there is no pyarrow.
        StorageError: It cannot be opened, or written.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path.name} needs the library pyarrow, which is not installed: `{install_command('parquet')}`; "
            "or name a file that ends in .jsonl or .sqlite."
        ) from None
    with journal_lines.opened(path.with_name(f"{path.name}.jsonl"), asked) as lines:
        try:
            yield lines
        finally:
            with storage_errors(path), replacing(path) as staged:
                _write(pyarrow, staged, lines)


def _write(pyarrow: Any, path: Path, lines: LinesJournal) -> None:
    text = ("path", "kind", "safety", "container", "rules", "error", "report")
    schema = pyarrow.schema([*((name, pyarrow.string()) for name in text), ("exit_code", pyarrow.int8())])
    rows = (row_of(path, report) for path, report in lines.reports())
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, _AT_ONCE)):
            writer.write_table(pyarrow.Table.from_pylist(some, schema))

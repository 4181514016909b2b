"""Where output goes: results to stdout or a file, problems to stderr, colours only to a terminal."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from manifest.cli.options import Format
from manifest.errors import StorageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from manifest.findings import Report

_WIDTH_OF_FILES = 120


def emit(content: RenderableType | str, output: Path | None, *, color: bool = True) -> None:
    """Print a result, or write it to a file without colours.

    Raises:
        StorageError: The file cannot be written.
    """
    if not isinstance(content, str):
        from rich.console import Console

        if output is None:
            terminal = sys.stdout.isatty()
            width = None if terminal else _WIDTH_OF_FILES
            Console(no_color=not color, highlight=False, soft_wrap=not terminal, width=width).print(content)
            return
        page = StringIO()
        Console(file=page, no_color=True, width=_WIDTH_OF_FILES, highlight=False).print(content)
        content = page.getvalue()
    if output is None:
        print(content.rstrip("\n"))
        return
    try:
        output.write_text(content.rstrip("\n") + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{output} cannot be written ({error.strerror}); choose another place.") from None


def complain(sentence: str) -> None:
    """One sentence on stderr, escaped."""
    from manifest.checkpoint.escaping import printable

    print(f"manifest: {printable(sentence, 4000)}", file=sys.stderr)


def finish(report: Report, format: Format, output: Path | None, *, quiet: bool, color: bool) -> NoReturn:
    """Print a report, unless it is good and quiet is asked for, and end with its exit code."""
    if not (quiet and report.passed and output is None):
        if format is Format.JSON:
            emit_data(report.model_dump(mode="json"), output)
        else:
            from manifest.rendering import text

            emit(text.report(report), output, color=color)
    raise typer.Exit(report.exit_code)


def emit_data(data: Any, output: Path | None) -> None:
    """Print data by json, which escapes all but ASCII: names out of a checkpoint must not reach a terminal as is."""
    emit(json.dumps(data, indent=2), output)

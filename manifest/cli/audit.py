"""`manifest audit`: what a checkpoint without a manifest is, and whether loading it would run code."""

from __future__ import annotations

import json

import typer

from manifest.cli.options import Checkpoint, Format, FormatOption, NoColor, Output, Quiet
from manifest.cli.printing import emit


def run(
    checkpoint: Checkpoint,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Read a checkpoint without torch and without running any of it, and say what loading it would do.

    Exit codes: 0 safe; 1 it would run code, or cannot be read as what it is; 2 it could not be checked.
    """
    from manifest.workflows.auditing import audit

    report = audit(checkpoint)
    if quiet and report.passed and output is None:
        raise typer.Exit(report.exit_code)
    if format is Format.JSON:
        # By json, which escapes all but ASCII: names out of a checkpoint must not reach a terminal as they are.
        emit(json.dumps(report.model_dump(mode="json"), indent=2), output)
    else:
        from manifest.rendering import text

        emit(text.report(report), output, color=not no_color)
    raise typer.Exit(report.exit_code)

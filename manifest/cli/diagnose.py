"""`manifest diagnose`: why numbers from elsewhere are not those of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Allow, Checkpoint, Format, FormatOption, NoColor, Output, Quiet
from manifest.cli.printing import finish
from manifest.errors import InputError


def run(
    checkpoint: Checkpoint,
    reading: Annotated[
        Path | None,
        typer.Option(
            "--reading",
            help="JSON file of published probabilities, by image and prompt, and of its templates if any.",
            metavar="FILE",
        ),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", help="JSON file of what a model said, by `manifest.answer`.", metavar="FILE"),
    ] = None,
    across_precisions: Annotated[
        bool,
        typer.Option("--across-precisions", help="Let answers pass that a lower precision than is on record explains."),
    ] = False,
    allow: Allow = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Find what was done otherwise where a checkpoint's model gave other numbers than its manifest has.

    Exit codes: 0 the numbers agree; 1 they do not; 2 it could not be checked.
    """
    if (reading is None) == (answers is None):
        raise InputError("One of --reading and --answers is expected; pass the one that you have.")
    if reading is not None:
        from manifest.workflows.diagnosing import diagnose

        report = diagnose(checkpoint, reading, allow=allow or ())
    else:
        from manifest.workflows.comparing import compare

        assert answers is not None
        report = compare(answers, checkpoint, across_precisions=across_precisions, allow=allow or ())
    finish(report, format, output, quiet=quiet, color=not no_color)

"""`manifest audit`: what a checkpoint without a manifest is, and whether loading it would run code."""

from __future__ import annotations

from manifest.cli.options import Checkpoint, Format, FormatOption, NoColor, Output, Quiet
from manifest.cli.printing import finish


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
    finish(report, format, output, quiet=quiet, color=not no_color)

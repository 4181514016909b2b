"""`manifest diff`: what changed between two checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Allow, Format, FormatOption, NoColor, Output, Quiet
from manifest.cli.printing import finish


def run(
    one: Annotated[
        Path, typer.Argument(metavar="A", help="The reference: a checkpoint, or a manifest.", show_default=False)
    ],
    other: Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)],
    outputs: Annotated[
        bool, typer.Option("--outputs", help="Run both, and find the first layer that departs.")
    ] = False,
    allow: Allow = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Say what changed between two checkpoints or manifests: weights by component and how far they moved, architecture,
    outputs by layer.

    Exit codes: 0 nothing did; 1 something did; 2 they could not be compared.
    """
    from manifest.workflows.differing import diff

    report = diff(one, other, outputs=outputs, allow=tuple(allow or ()))
    finish(report, format, output, quiet=quiet, color=not no_color)

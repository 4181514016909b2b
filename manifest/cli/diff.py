"""`manifest diff`: what changed between two checkpoints, or between the checkpoints of two folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import Allow, Format, FormatOption, NoColor, Output, Quiet
from manifest.cli.printing import each_checked, finish
from manifest.errors import ManifestError

if TYPE_CHECKING:
    from manifest.schema.report import Report


def run(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="The reference: a checkpoint, a manifest, a folder, or a pattern.", show_default=False
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="What is compared with it.", show_default=False)],
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
    outputs by layer. Of two folders, between checkpoints of the same name.

    Exit codes: 0 nothing did; 1 something did; 2 they could not be compared. Of several pairs, the worst.
    """
    from manifest.schema.report import Kind, Report
    from manifest.storage.sidecars import named_checkpoints
    from manifest.workflows.differing import diff, only_in
    from manifest.workflows.several import pairs

    then, now = named_checkpoints([one]), named_checkpoints([other])
    allowed = tuple(allow or ())
    if len(then) == len(now) == 1:
        report = diff(then[0], now[0], outputs=outputs, allow=allowed)
        finish(report, format, output, quiet=quiet, color=not no_color)
    paired = pairs(one, other)

    def check(name: Path) -> Report:
        first, second = paired[str(name)]
        if first is None or second is None:
            return only_in(one if second is None else other, str(name))
        try:
            report = diff(first, second, outputs=outputs, allow=allowed)
        except ManifestError as error:
            return Report(kind=Kind.DIFF, subject=str(name), error=str(error))
        return report.model_copy(update={"subject": str(name)})

    reports = each_checked(
        [*map(Path, paired)], check, Kind.DIFF, format=format, output=output, in_processes=not outputs
    )
    finish(reports, format, output, quiet=quiet, color=not no_color)

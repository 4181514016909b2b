"""`manifest log` and `manifest relate`: where a checkpoint comes from, by what manifests say and by the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import NoColor, Output, Places, ShownFormat, TrustedKey
from manifest.cli.printing import emit, emit_data


def run(
    checkpoints: Places,
    key: TrustedKey = None,
    format: Annotated[ShownFormat, typer.Option("--format", help="How to print it.")] = ShownFormat.TEXT,
    output: Output = None,
    no_color: NoColor = False,
) -> None:
    """Print what checkpoints say of where they come from, newest first: training, data, code, and what they began with.

    Manifests are taken at their word, and no weights are read but with --key, to say whose they are. Exit codes: 0 all
    was told; 2 a manifest could not be read, or there was none.
    """
    from manifest.errors import NoManifestError
    from manifest.rendering import lineage as rendering
    from manifest.workflows.lineage import lineage

    found = lineage(checkpoints, key=key)
    if not found.descents and not found.unread:
        raise NoManifestError(
            f"No checkpoint of {', '.join(checkpoints)} has a manifest beside it; "
            "save with `manifest.save`, or write one with `manifest create`."
        )
    if format is ShownFormat.JSON:
        emit_data(rendering.data(found), output)
    else:
        emit(rendering.show(found), output, color=not no_color)
    raise typer.Exit(2 if found.unread else 0)


def relate(
    checkpoints: Annotated[
        list[str],
        typer.Argument(metavar="CKPT OTHER...", help="Checkpoints, or manifests by themselves.", show_default=False),
    ],
    against: Annotated[
        Path | None,
        typer.Option("--against", help="Find its nearest relatives among the manifests in a folder.", metavar="FOLDER"),
    ] = None,
    format: Annotated[ShownFormat, typer.Option("--format", help="How to print it.")] = ShownFormat.TEXT,
    output: Output = None,
    no_color: NoColor = False,
) -> None:
    """Say how a checkpoint is related to others: the same, trained on, rounded, pruned, a mix of them, or not at all.

    Manifests alone will do: they have sketches of the weights. Exit codes: 0 it is related to each of the others; 1 to
    one of them it is not; 2 that could not be told.
    """
    from manifest.errors import InputError
    from manifest.kinship.relating import relate, relatives
    from manifest.rendering import kinship as rendering

    if against is not None and len(checkpoints) > 1:
        raise InputError("--against is given with several checkpoints, expected one; name one, or leave out --against.")
    found = relate(*checkpoints) if against is None else relatives(checkpoints[0], against)
    if format is ShownFormat.JSON:
        emit_data(rendering.data(found), output)
    else:
        emit(rendering.show(found), output, color=not no_color)
    raise typer.Exit(found.exit_code)

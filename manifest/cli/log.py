"""`manifest log`, `manifest relate` and `manifest index`: where a checkpoint comes from, by what manifests say and by
the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Against, NoColor, Output, Places, ShownFormat, TrustedKey
from manifest.cli.printing import complain, emit, emit_data
from manifest.escaping import printable

index = typer.Typer(help="Keep sketches of weights in one file, in which relatives are found.", no_args_is_help=True)


def run(
    checkpoints: Places,
    key: TrustedKey = None,
    against: Against = None,
    format: Annotated[ShownFormat, typer.Option("--format", help="How to print it.")] = ShownFormat.TEXT,
    output: Output = None,
    no_color: NoColor = False,
) -> None:
    """Print what checkpoints say of where they come from, newest first: training, data, code, and what they began with.

    With --against, also relatives by the sketches of their weights, of which no manifest says so.

    Manifests are taken at their word, and no weights are read but with --key, to say whose they are. Exit codes: 0 all
    was told; 2 a manifest could not be read, or there was none.
    """
    from manifest.errors import NoManifestError
    from manifest.rendering import lineage as rendering
    from manifest.workflows.lineage import lineage

    found = lineage(checkpoints, key=key, against=against)
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
    against: Against = None,
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


IndexFile = Annotated[Path, typer.Argument(metavar="INDEX", help="The index.", show_default=False)]


@index.command()
def add(
    file: IndexFile,
    places: Annotated[
        list[Path],
        typer.Argument(metavar="PLACE...", help="Manifests, checkpoints, or folders of manifests.", show_default=False),
    ],
) -> None:
    """Put weights into an index, which is made where there is none; the same weights are in it once.

    Exit codes: 0 all was added; 2 something could not be read, and the rest was added.
    """
    from manifest.kinship.relating import add_to_index

    found = add_to_index(file, places)
    said = f"Added {found.added:,} to {file}, and updated {found.updated:,}: it holds {found.held:,} sets of weights."
    emit(f"{said} {found.without:,} more have no sketches." if found.without else said, None)
    for path, reason in found.unread:
        complain(f"{path} was not added: {reason}")
    raise typer.Exit(2 if found.unread else 0)


@index.command("list")
def list_entries(file: IndexFile) -> None:
    """Print what an index holds: weights digest and name."""
    from manifest.kinship.index import opened_index

    with opened_index(file) as found:
        for entry in sorted(found.entries):
            emit(f"{entry.weights.partition(':')[2][:12]}  {printable(entry.name, 200)}", None)

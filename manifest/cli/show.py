"""`manifest show`: what a manifest says, or what a checkpoint without one holds, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Checkpoint, NoColor, Output, ShownFormat, State
from manifest.cli.printing import complain, emit, emit_data


def run(
    checkpoint: Checkpoint,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor of the file.")] = False,
    state: State = None,
    format: Annotated[ShownFormat, typer.Option("--format", help="How to print it.")] = ShownFormat.TEXT,
    output: Output = None,
    no_color: NoColor = False,
) -> None:
    """Print what is on record about a checkpoint, or what is in it when there is no record; of its bytes only the size
    is checked."""
    from manifest.storage.sidecars import Sidecars, described_checkpoint, has_manifest

    path = described_checkpoint(checkpoint)
    described = has_manifest(path)
    if described and not tensors and state is None:
        _show_manifest(path, format, output, color=not no_color)
        return
    from manifest.checkpoint import open_checkpoint
    from manifest.rendering import contents

    with open_checkpoint(path) as stored:
        meant = stored if state is None else stored.select(state)
        if format is ShownFormat.JSON:
            emit_data(contents.data(meant), output)
        else:
            beside = Sidecars(path).manifest.name if described else None
            emit(contents.show(meant, tensors=tensors, manifest=beside), output, color=not no_color)


def _show_manifest(path: Path, format: ShownFormat, output: Path | None, *, color: bool) -> None:
    from manifest.schema.document import parse, serialize
    from manifest.storage.sidecars import Sidecars, pending_words
    from manifest.storage.transaction import read_sidecars

    contents = read_sidecars(path)
    if contents.pending is not None:
        complain(pending_words(path, contents.pending))
    manifest = parse(contents.manifest, source=Sidecars(path).manifest.name)
    if format is ShownFormat.JSON:
        emit(serialize(manifest).decode(), output)
        return
    from manifest.rendering import text
    from manifest.storage.described import other_size

    emit(text.show(manifest, path.name or path.resolve().name, other_size(path, manifest)), output, color=color)

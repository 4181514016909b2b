"""`manifest show`, `card` and `bom`: what a manifest says, or what a checkpoint without one holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Checkpoint, NoColor, Output, ShownFormat, State
from manifest.cli.printing import complain, emit, emit_data
from manifest.errors import InputError


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


def card(
    checkpoint: Checkpoint,
    into: Annotated[
        Path | None, typer.Option("--into", help="Model card to write it into, as README.md.", show_default=False)
    ] = None,
) -> None:
    """Print the section of a model card about a checkpoint, as Markdown, or write it into a card, in the place of the
    one that is there."""
    from manifest.rendering import markdown
    from manifest.storage.sidecars import described_checkpoint
    from manifest.storage.transaction import read_manifest

    path = described_checkpoint(checkpoint)
    section = markdown.card(read_manifest(path), path.name)
    if into is None:
        emit(section, None)
        return
    _write_into(into, section)


def bom(checkpoint: Checkpoint, output: Output = None) -> None:
    """Print a bill of materials of a checkpoint: CycloneDX 1.6 with its model, files, libraries and ancestors."""
    from manifest.rendering.bom import bill
    from manifest.storage.sidecars import described_checkpoint
    from manifest.storage.transaction import read_manifest

    emit_data(bill(read_manifest(described_checkpoint(checkpoint))), output)


def _write_into(page: Path, section: str) -> None:
    """Replace a model card by one with the section in it, or begin one.

    Raises:
        InputError: It is no text, or the marks in it are not those that this command wrote.
        StorageError: It cannot be written; nothing was changed.
    """
    from manifest.rendering.markdown import with_card
    from manifest.storage.files import synchronise
    from manifest.storage.places import kind_of, place_to_save
    from manifest.storage.transaction import replace_file, staging

    target = place_to_save(page)
    if target is None:
        raise InputError(f"{page} is {kind_of(page)}, expected the name of a text file; name one.")
    try:
        written = with_card(target.read_text(encoding="utf-8") if target.exists() else "", section)
    except ValueError as error:
        raise InputError(f"{page} cannot be a model card ({error}); correct it, or name another.") from None
    with staging(target) as staged:
        staged.write_text(written, encoding="utf-8")
        synchronise(staged)
        replace_file(staged, target)


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

"""`manifest show`, `card` and `bom`: what a manifest says, or what a checkpoint without one holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from manifest.cli.options import Checkpoint, NoColor, Output, Places, ShownFormat, State
from manifest.cli.printing import complain, emit, emit_data
from manifest.errors import InputError, ManifestError
from manifest.escaping import address_in

if TYPE_CHECKING:
    from rich.console import RenderableType

    from manifest.checkpoint import Checkpoint as OpenCheckpoint
    from manifest.schema.document import Manifest


def run(
    checkpoints: Places,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor of the file.")] = False,
    state: State = None,
    format: Annotated[ShownFormat, typer.Option("--format", help="How to print it.")] = ShownFormat.TEXT,
    output: Output = None,
    no_color: NoColor = False,
) -> None:
    """Print what is on record about a checkpoint, or what is in it when there is no record; of its bytes only the size
    is checked. Of several, a line each."""
    from manifest.storage.sidecars import named_checkpoints

    paths = named_checkpoints(checkpoints)
    asked = _Asked(tensors, state)
    if len(paths) != 1:
        _show_several(paths, asked, format, output, color=not no_color)
    elif format is ShownFormat.TEXT:
        emit(_page(paths[0], asked), output, color=not no_color)
    else:
        data = _data(paths[0], asked)
        emit(data, output) if isinstance(data, str) else emit_data(data, output)


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
    from manifest.storage.files import write_text
    from manifest.storage.places import kind_of, place_to_save

    target = place_to_save(page)
    if target is None:
        raise InputError(f"{page} is {kind_of(page)}, expected the name of a text file; name one.")
    try:
        written = with_card(target.read_text(encoding="utf-8") if target.exists() else "", section)
    except ValueError as error:
        raise InputError(f"{page} cannot be a model card ({error}); correct it, or name another.") from None
    write_text(target, written)


@dataclass(frozen=True)
class _Asked:
    """What is asked for of the files, whatever their manifests say."""

    tensors: bool
    state: str | None

    @property
    def of_files(self) -> bool:
        return self.tensors or self.state is not None


@contextmanager
def _reached(named: Path) -> Iterator[tuple[Path, OpenCheckpoint | None]]:
    """The checkpoint that a path or an address names; one at an address is open already."""
    from manifest.storage.sidecars import bring_sidecars, described_checkpoint

    address = address_in(named)
    if address is None:
        yield described_checkpoint(named), None
        return
    from manifest.checkpoint import open_address

    with open_address(address) as stored:
        bring_sidecars(stored)
        yield stored.path, stored


def _manifest_of(path: Path, asked: _Asked) -> Manifest | None:
    """The manifest, where that is what is shown."""
    from manifest.storage.sidecars import Sidecars, has_manifest, pending_words

    if asked.of_files or not has_manifest(path):
        return None
    from manifest.schema.document import parse
    from manifest.storage.transaction import read_sidecars

    contents = read_sidecars(path)
    if contents.pending is not None:
        complain(pending_words(path, contents.pending))
    return parse(contents.manifest, source=Sidecars(path).manifest.name)


@contextmanager
def _opened(path: Path, asked: _Asked, already: OpenCheckpoint | None) -> Iterator[OpenCheckpoint]:
    from manifest.checkpoint import open_checkpoint

    with open_checkpoint(path) if already is None else nullcontext(already) as stored:
        yield stored if asked.state is None else stored.select(asked.state)


def _page(named: Path, asked: _Asked, *, brief: bool = False) -> RenderableType:
    """One checkpoint for a person; in a line where it is one of several."""
    with _reached(named) as (path, already):
        if (manifest := _manifest_of(path, asked)) is not None:
            from manifest.rendering import text
            from manifest.storage.described import other_size

            if brief:
                return text.line(manifest, str(named), other_size(path, manifest))
            return text.show(manifest, path.name or path.resolve().name, other_size(path, manifest))
        from manifest.rendering import contents
        from manifest.storage.sidecars import Sidecars, has_manifest

        with _opened(path, asked, already) as stored:
            if brief and not asked.of_files:
                return contents.line(stored, str(named))
            beside = Sidecars(path).manifest.name if has_manifest(path) else None
            return contents.show(stored, tensors=asked.tensors, manifest=beside)


def _data(named: Path, asked: _Asked) -> str | dict[str, Any]:
    """One checkpoint for a program: the text of its manifest, or what is in the file."""
    with _reached(named) as (path, already):
        if (manifest := _manifest_of(path, asked)) is not None:
            from manifest.schema.document import serialize

            return serialize(manifest).decode()
        from manifest.rendering import contents

        with _opened(path, asked, already) as stored:
            return contents.data(stored)


def _show_several(
    paths: Sequence[Path], asked: _Asked, format: ShownFormat, output: Path | None, *, color: bool
) -> NoReturn:
    """Show each of several, and end with the worst exit code."""
    from manifest.rendering import text

    shown: list[Any] = []
    code = 0
    for path in paths:
        try:
            if format is ShownFormat.TEXT:
                shown.append(_page(path, asked, brief=True))
            else:
                data = _data(path, asked)
                of = {"manifest": json.loads(data)} if isinstance(data, str) else {"contents": data}
                shown.append({"path": str(path), **of})
        except ManifestError as error:
            code = max(code, error.exit_code)
            shown.append(
                text.not_shown(str(path), str(error))
                if format is ShownFormat.TEXT
                else {"path": str(path), "error": str(error)}
            )
    if format is ShownFormat.JSON:
        emit_data(shown, output)
    else:
        from rich.console import Group

        between = [""] if asked.of_files else []
        emit(Group(*(part for each in shown for part in (each, *between))), output, color=color)
    raise typer.Exit(code)

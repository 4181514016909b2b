"""`manifest show`: what a manifest says, for people."""

from __future__ import annotations

from manifest.cli.options import Checkpoint, Format, FormatOption, NoColor, Output
from manifest.cli.printing import emit


def run(
    checkpoint: Checkpoint, format: FormatOption = Format.TEXT, output: Output = None, no_color: NoColor = False
) -> None:
    """Print what is on record about a checkpoint; checks nothing."""
    from manifest.document import serialize
    from manifest.sidecars import read_manifest, require_checkpoint

    manifest = read_manifest(require_checkpoint(checkpoint))
    if format is Format.JSON:
        emit(serialize(manifest).decode(), output)
        return
    from manifest.rendering import text

    emit(text.show(manifest), output, color=not no_color)

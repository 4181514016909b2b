"""`manifest verify`: hold a checkpoint to its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import Allow, Checkpoint, Format, FormatOption, NoColor, Output, Probes, Quiet
from manifest.cli.printing import finish
from manifest.errors import ManifestError

if TYPE_CHECKING:
    from manifest.checkpoint import Checkpoint as OpenCheckpoint


def run(
    checkpoint: Checkpoint,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Public key of the signer you trust: a file, or env:VARIABLE.", show_default=False),
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Stop before the checks that need torch.")] = False,
    allow: Allow = None,
    probe: Probes = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", help="YAML file of what a release demands.", show_default=False)
    ] = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Check who signed a checkpoint, that it is intact, whole and rebuilt exactly, and that it still says the same.

    Exit codes: 0 all checks passed; 1 something is wrong; 2 it could not be checked.
    """
    opened = _opened(checkpoint)
    from manifest.workflows.verifying import verify

    report = verify(opened, key=key, fast=fast, allow=allow or (), probes=probe or (), policy=policy)
    finish(report, format, output, quiet=quiet, color=not no_color)


def _opened(path: Path) -> OpenCheckpoint | Path:
    """The checkpoint, being hashed while the rest of the program is imported; `verify` says why it cannot be opened."""
    from manifest.checkpoint import open_checkpoint

    try:
        opened = open_checkpoint(path)
    except ManifestError:
        return path
    opened.hash_ahead()
    return opened

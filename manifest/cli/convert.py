"""`manifest convert`: the weights of any checkpoint as safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import (
    PASSPHRASE_VARIABLE,
    Checkpoint,
    PassphraseVariable,
    Quiet,
    SigningKey,
    State,
    signing_key,
)
from manifest.cli.printing import emit


def run(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The file to write.", show_default=False)],
    state: State = None,
    untie: Annotated[bool, typer.Option("--untie", help="Write tied tensors once for each of their names.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    key: SigningKey = None,
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
    quiet: Quiet = False,
) -> None:
    """Write the weights as safetensors, without torch and without running any of the file; its manifest comes along."""
    from manifest.storage.sidecars import has_manifest
    from manifest.workflows.converting import convert

    manifest = convert(
        checkpoint, output, state=state, untie=untie, force=force, key=key and signing_key(key, passphrase_env)
    )
    if not quiet:
        beside = f", with its manifest{' and signature' if manifest.signer else ''}" if manifest else ""
        if not manifest and has_manifest(checkpoint):
            beside = f", without a manifest, since that of {checkpoint.name} does not describe these weights"
        emit(f"Wrote {output.name}{beside}.", None)

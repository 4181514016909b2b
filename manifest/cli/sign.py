"""`manifest sign`: sign, or sign anew, a checkpoint that has a manifest."""

from __future__ import annotations

from typing import Annotated

import typer

from manifest.cli.options import PASSPHRASE_VARIABLE, Checkpoint, PassphraseVariable, passphrase
from manifest.cli.printing import emit


def run(
    checkpoint: Checkpoint,
    key: Annotated[str, typer.Option("--key", help="Private key: a file, or env:VARIABLE.")],
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
) -> None:
    """Sign a checkpoint and its manifest, after checking that the one is what the other describes."""
    from manifest.workflows.signing import sign

    signature = sign(checkpoint, key, passphrase=passphrase(passphrase_env))
    emit(f"Signed: {signature}", None)

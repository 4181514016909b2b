"""`manifest repair`: finish what killed saves left, or remove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import PASSPHRASE_VARIABLE, PassphraseVariable, Quiet, SigningKey, signing_key
from manifest.cli.printing import complain


def run(
    place: Annotated[
        Path, typer.Argument(metavar="CKPT|FOLDER", help="A checkpoint, or a folder of them.", show_default=False)
    ],
    key: SigningKey = None,
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
    quiet: Quiet = False,
) -> None:
    """Finish saves that were cut off, and remove temporary files whose writers are gone.

    A signed manifest is replaced by an unsigned pending one only with --key, which signs it. Exit codes: 0 all is in
    order now; 2 something is left that only a key or a person can decide.
    """
    from manifest.workflows.repairing import repair

    repaired = repair(place, key=key and signing_key(key, passphrase_env))
    if not quiet:
        for sentence in (*repaired.done, *repaired.left) or ("Nothing to repair.",)[: not repaired.refused]:
            typer.echo(sentence)
    for sentence in repaired.refused:
        complain(sentence)
    if repaired.refused:
        raise typer.Exit(2)

"""`manifest keygen`: make a pair of signing keys."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import PASSPHRASE_VARIABLE, PassphraseVariable, passphrase


class Curve(StrEnum):
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"


def run(
    name: Annotated[Path, typer.Argument(help="Where: NAME.key and NAME.pub are written.", show_default=False)],
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt the private key by a passphrase.")] = False,
    curve: Annotated[Curve, typer.Option("--curve", help="Elliptic curve.")] = Curve.P256,
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
) -> None:
    """Make an elliptic-curve key pair for signing; never over an existing file."""
    from manifest.signing import generate_keys

    secret = passphrase(passphrase_env, required=True) if encrypt else None
    private, public = generate_keys(name, passphrase=secret, curve=curve)
    print(f"Private key, keep it secret: {private}\nPublic key, give it to others: {public}")

"""`manifest sign`, `keygen` and `trust`: sign a checkpoint, make a pair of keys, and say whose signatures count."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import (
    PASSPHRASE_VARIABLE,
    Checkpoint,
    PassphraseDescriptor,
    PassphraseVariable,
    TrustFile,
    new_passphrase,
    signing_key,
)
from manifest.cli.printing import emit

trust = typer.Typer(help="Say whose signatures count, in a trust file.", no_args_is_help=True)


class Curve(StrEnum):
    P256 = "p256"
    P384 = "p384"
    P521 = "p521"


def run(
    checkpoint: Checkpoint,
    key: Annotated[str, typer.Option("--key", help="Private key: a file, env:VARIABLE, at another URI; or sigstore:.")],
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
    passphrase_fd: PassphraseDescriptor = None,
    trust: TrustFile = None,
) -> None:
    """Sign a checkpoint and its manifest, after checking that the one is what the other describes.

    Beside the signatures of others, one is added; the manifest stays as it is.
    """
    from manifest.storage.sidecars import require_checkpoint
    from manifest.workflows.signing import sign

    require_checkpoint(checkpoint)  # before anybody is asked for a passphrase
    signature = sign(checkpoint, signing_key(key, passphrase_env, passphrase_fd), trust=trust)
    emit(f"Signed: {signature}", None)


def keygen(
    name: Annotated[Path, typer.Argument(help="Where: NAME.key and NAME.pub are written.", show_default=False)],
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt the private key by a passphrase.")] = False,
    curve: Annotated[Curve, typer.Option("--curve", help="Elliptic curve.")] = Curve.P256,
    passphrase_env: PassphraseVariable = PASSPHRASE_VARIABLE,
    passphrase_fd: PassphraseDescriptor = None,
) -> None:
    """Make an elliptic-curve key pair for signing; never over an existing file."""
    from manifest.signing import generate_keys

    secret = new_passphrase(passphrase_env, passphrase_fd) if encrypt else None
    private, public = generate_keys(name, passphrase=secret, curve=curve)
    print(f"Private key, keep it secret: {private}\nPublic key, give it to others: {public}")


@trust.command()
def add(
    name: Annotated[str, typer.Argument(help="What reports call the signer.", show_default=False)],
    key: Annotated[
        str, typer.Argument(help="Public key: a file, env:VARIABLE, or sigstore:NAME?issuer=URL.", show_default=False)
    ],
    valid_from: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], metavar="DAY", help="First day on which it counts."),
    ] = None,
    valid_until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], metavar="DAY", help="Last day on which it counts."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Checkpoints it may sign, as in heads/*.pt.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", help="How many of all signers must have signed from now on.")
    ] = None,
    file: TrustFile = None,
) -> None:
    """Trust a signer; the file is made where there is none."""
    from manifest.workflows.signing import trust_signer

    place = trust_signer(
        file,
        name,
        key,
        valid_from=valid_from and valid_from.date(),
        valid_until=valid_until and valid_until.date(),
        checkpoints=only or (),
        threshold=threshold,
    )
    emit(f"Added {name} to {place}.", None)


@trust.command("list")
def list_signers(file: TrustFile = None) -> None:
    """Print whose signatures count: name, key, period, checkpoints."""
    from manifest.workflows.signing import trusted_now

    trusted = trusted_now(file)
    left = sum(signer.removed is None for signer in trusted.each)
    emit(f"{trusted.source}: {trusted.threshold} of {left} must have signed", None)
    today = datetime.now(UTC).date()
    width = max((len(signer.name or "") for signer in trusted.each), default=0)
    for signer in trusted.each:
        emit(f"{signer.name:<{width}}  {signer.public.title}  {signer.terms(today)}".rstrip(), None)


@trust.command()
def remove(
    name: Annotated[str, typer.Argument(help="The signer.", show_default=False)],
    file: TrustFile = None,
) -> None:
    """Trust a signer no more: it stays in the file, marked, so that its signatures are known for what they are."""
    from manifest.workflows.signing import remove_signer

    emit(f"Removed {name} in {remove_signer(file, name)}.", None)

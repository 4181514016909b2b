"""Making a pair of elliptic-curve keys, and writing it so that nobody else can read the private one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from manifest.errors import KeyFileError
from manifest.signing.keys import PublicKey

_CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}


def generate_keys(stem: Path, *, passphrase: bytes | None = None, curve: str = "p256") -> tuple[Path, Path]:
    """Make a key pair and write it to `STEM.key` and `STEM.pub`.

    Args:
        stem: Path of both files without their endings.
        passphrase: Encrypts the private key; without it, the file's mode 0600 alone protects it.
        curve: `p256`, `p384` or `p521`.

    Returns:
        The paths of the private key (PEM PKCS #8) and the public key (PEM SubjectPublicKeyInfo).

    Raises:
        KeyFileError: The curve is unknown, the passphrase unusable, a file of that name exists, or cannot be written.
    """
    if curve not in _CURVES:
        raise KeyFileError(f"The curve {curve!r} is none of {', '.join(_CURVES)}; choose one of these.")
    if stem.name in ("", ".."):
        raise KeyFileError(f"{str(stem)!r} is no name for a key pair; name it, as in `release`.")
    key = ec.generate_private_key(_CURVES[curve]())
    private_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, _encryption(passphrase)
    )
    private, public = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    _create(private, private_pem, mode=0o600)
    try:
        _create(public, PublicKey(key.public_key()).pem, mode=0o644)
    except KeyFileError:
        private.unlink()  # half a pair is of no use, and would be in the way of the next attempt
        raise
    return private, public


def _encryption(passphrase: bytes | None) -> serialization.KeySerializationEncryption:
    if passphrase is None:
        return serialization.NoEncryption()
    if not 0 < len(passphrase) < 1024:  # what PKCS #8 encryption in OpenSSL takes
        raise KeyFileError(
            f"The passphrase has {len(passphrase)} bytes where 1 to 1023 are expected; "
            "choose another, or give none to leave the key unencrypted."
        )
    return serialization.BestAvailableEncryption(passphrase)


def _create(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that did not exist, with its permissions in force before its first byte."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise KeyFileError(
            f"{path} exists already and a key is never written over; move it away or choose another name."
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"The key file {path} cannot be written ({error.strerror or error}); "
        "name a place in an existing directory that you may write to."
    )

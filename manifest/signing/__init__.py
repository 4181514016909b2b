"""Who vouches for a checkpoint: keys, and the signed list of files with their SHA-256.

A signature is a plain OpenSSF Model Signing v1.0 bundle that other tools read too. This room knows names and digests
of files; it opens no checkpoint and no manifest, and whether a key is to be trusted is its caller's question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manifest.signing.envelope import Statement, read_bundle, sign_resources, verify_bundle
from manifest.signing.keys import (
    PrivateKey,
    PublicKey,
    Trusted,
    load_private_key,
    load_public_key,
    load_public_keys,
    private_key,
    public_keys,
)

if TYPE_CHECKING:
    from manifest.signing.generating import generate_keys

__all__ = [
    "PrivateKey",
    "PublicKey",
    "Statement",
    "Trusted",
    "generate_keys",
    "load_private_key",
    "load_public_key",
    "load_public_keys",
    "private_key",
    "public_keys",
    "read_bundle",
    "sign_resources",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    """`generate_keys`, which few commands need, when it is asked for."""
    if name != "generate_keys":
        raise AttributeError(f"module 'manifest.signing' has no attribute {name!r}")
    from manifest.signing.generating import generate_keys

    return generate_keys

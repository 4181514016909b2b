"""Who vouches for a checkpoint: keys, and the signed list of files with their SHA-256.

A signature is a plain OpenSSF Model Signing v1.0 bundle that other tools read too. This room knows names and digests
of files; it opens no checkpoint and no manifest, and whether a key is to be trusted is its caller's question.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manifest.signing.envelope import Statement, read_bundle, sign_resources, verify_bundle
from manifest.signing.keys import (
    PrivateKey,
    PrivateSigner,
    PublicKey,
    PublicSigner,
    Trusted,
    load_private_key,
    load_public_key,
    load_public_keys,
    private_key,
    public_keys,
)

if TYPE_CHECKING:
    from manifest.signing.generating import generate_keys
    from manifest.signing.identities import Identity

__all__ = [
    "Identity",
    "PrivateKey",
    "PublicKey",
    "PrivateSigner",
    "Statement",
    "Trusted",
    "PublicSigner",
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


_ELSEWHERE = {"generate_keys": "generating", "Identity": "identities"}
"""What few commands need, and the module that is imported when it is asked for."""


def __getattr__(name: str) -> Any:
    if name not in _ELSEWHERE:
        raise AttributeError(f"module 'manifest.signing' has no attribute {name!r}")
    return getattr(import_module(f"manifest.signing.{_ELSEWHERE[name]}"), name)

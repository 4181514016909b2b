"""The JSON objects of a signature, one class each: Sigstore bundle v0.3, DSSE envelope, in-toto Statement v1, OMS v1.0.

Types and lengths are checked here; what the parts must say of each other, and who signed, `envelope` checks.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

SHA256_DIGITS = re.compile(r"[0-9a-fA-F]{64}")


class Part(BaseModel):
    """A JSON object: exact types, keys beyond those listed ignored, as in-toto wants it in what is signed."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, alias_generator=to_camel, defer_build=True)


_Hint = Annotated[str, Field(min_length=64, max_length=64, pattern=re.compile("[0-9a-f]{64}"))]
_Sha256 = Annotated[str, Field(min_length=64, max_length=64, pattern=SHA256_DIGITS)]


class EnvelopeSignature(Part):
    sig: str
    keyid: str = ""


class Envelope(Part):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"]
    signatures: Annotated[list[EnvelopeSignature], Field(min_length=1, max_length=1)]


class PublicKeyHint(Part):
    hint: _Hint


class Material(Part):
    public_key: PublicKeyHint


class RawCertificate(Part):
    raw_bytes: str


class KeylessMaterial(Part):
    certificate: RawCertificate


class BundleParts(Part):
    # Sigstore's own readers refuse a bundle with keys that they do not know.
    model_config = ConfigDict(extra="forbid")

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]
    dsse_envelope: Envelope


class Bundle(BundleParts):
    """One by a key."""

    verification_material: Material


class KeylessBundle(BundleParts):
    """One by an identity, whose certificate is in it."""

    verification_material: KeylessMaterial


class SubjectDigest(Part):
    sha256: _Sha256


class Subject(Part):
    name: str
    digest: SubjectDigest


class Resource(Part):
    name: str
    algorithm: Literal["sha256"]
    digest: _Sha256


class Serialization(Part):
    # OMS v1.0 writes these keys in snake case.
    model_config = ConfigDict(alias_generator=None)

    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: bool = False
    ignore_paths: list[str] = []


class Predicate(Part):
    resources: Annotated[list[Resource], Field(min_length=1)]
    serialization: Serialization


class InTotoStatement(Part):
    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    predicate_type: Literal["https://model_signing/signature/v1.0"]
    predicate: Predicate

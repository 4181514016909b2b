"""The form of a signature: an OpenSSF Model Signing v1.0 statement in a DSSE envelope in a Sigstore bundle v0.3.

Three formats nest here, each from its own specification: in-toto Statement v1 with the predicate
`https://model_signing/signature/v1.0`, DSSE v1 with its pre-authentication encoding, and the Sigstore bundle. Reading
is strict: whatever two readers could understand in two ways is refused, and around what is signed there is one form
only, that of this package and of the reference implementation, so that no change of a byte goes unseen. Files are never
opened; that the digests listed are those of the files is for the caller to compare.
"""

from __future__ import annotations

import base64
import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from manifest.errors import InputError, SignatureError
from manifest.signing.bundle import SHA256_DIGITS, Bundle, InTotoStatement, KeylessBundle, Part
from manifest.signing.keys import PrivateKey, PrivateSigner, PublicKey, PublicSigner
from manifest.strict_json import NotStrictError, read_object
from manifest.validation import TOP, UNKNOWN_FIELD, first_fault

if TYPE_CHECKING:
    from manifest.signing.identities import Certificate, Identity

_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_LARGEST = 1 << 20  # bytes; some seven thousand files, and little enough to parse from anyone


@dataclass(frozen=True)
class Statement:
    """What a bundle says.

    Attributes:
        model_name: The signer's name for the whole; informative, nothing is looked up by it.
        resources: SHA-256 as 64 lower-case hexadecimal digits, by file name relative to the signature's directory.
        hint: SHA-256 of the public key's PEM, of the key that the bundle names; when it was verified, of the key that
            signed it. Of an identity, that of its URI.
        identity: Whom the certificate of a keyless signature names; None of one by a key.
    """

    model_name: str
    resources: dict[str, str]
    hint: str
    identity: Identity | None = None

    @property
    def signer(self) -> str:
        """Whom the bundle names, for a person."""
        return f"key {self.hint[:16]}" if self.identity is None else self.identity.title


def sign_resources(model_name: str, resources: Mapping[str, str], key: PrivateSigner) -> bytes:
    """Sign a list of files.

    Args:
        model_name: A name for the whole, shown to people.
        resources: SHA-256 in hexadecimal digits, by file name relative to the directory of the signature.
        key: Whose signature it becomes: a private key, or an identity.

    Returns:
        The bundle as compact JSON.

    Raises:
        InputError: Nothing to sign, or a name or digest that no reader would take back.
    """
    for name, digest in resources.items():
        if not SHA256_DIGITS.fullmatch(digest):
            raise InputError(
                f"The file {name!r} comes with the digest {digest!r} where the 64 hexadecimal digits of its SHA-256 "
                "are expected; compute it by `manifest.digests.file_sha256`."
            )
    payload = json.dumps(_statement(model_name, resources), separators=(",", ":")).encode()
    if isinstance(key, PrivateKey):
        data = _canonical(payload, key.sign(_pae(payload)), key.public.hint)
    else:
        data = key.bundle(payload)
    try:
        _parse(data)  # the reader's rules are the writer's too
    except _Malformed as fault:
        raise InputError(f"These files cannot be signed: {fault}; rename or split them.") from fault
    return data


def read_bundle(data: bytes) -> Statement:
    """What a bundle says, whoever signed it: structure only, no trust.

    Raises:
        SignatureError: With rule `T005`, when it is not a well-formed bundle.
    """
    return _parsed(data).statement


def verify_bundle(data: bytes, keys: Sequence[PublicSigner]) -> Statement:
    """What a bundle says, provided that one of `keys`, which may be identities, signed it.

    The key that the bundle names is not signed, so every key is tried, and the one that signed must be the one named.

    Raises:
        SignatureError: With rule `T005` when it is not a well-formed bundle or names another key than signed it, `T003`
            when no key's signature holds, `T019` when the certificate or the log's entry of a keyless one does not.
        InputError: What checks a keyless signature of a trusted identity is not installed.
    """
    parsed = _parsed(data)
    signed = _pae(parsed.payload)
    if parsed.statement.identity is not None:
        return _verify_keyless(data, parsed, signed, keys)
    for key in keys:
        if isinstance(key, PublicKey) and key.verify(parsed.signature, signed):
            if parsed.statement.hint != key.hint:
                raise _malformed(f"it names the key {_clipped(parsed.statement.hint)} and {key.hint} signed it")
            return parsed.statement
    raise _not_signed_by(keys, parsed.statement)


def _verify_keyless(data: bytes, parsed: _Parsed, signed: bytes, keys: Sequence[PublicSigner]) -> Statement:
    from manifest.signing.keyless import verify_keyless

    named = next((key for key in keys if key.hint == parsed.statement.hint), None)
    holds = parsed.certified is not None and parsed.certified.verify(parsed.signature, signed)
    if named is None or isinstance(named, PublicKey) or not holds:
        raise _not_signed_by(keys, parsed.statement)
    if verify_keyless(data, named) != parsed.payload:
        raise _malformed("Sigstore's library reads another payload in it")
    return parsed.statement


class _Malformed(Exception):
    """Why a bundle is refused: what was found, where, and what was expected, without a remedy."""


@dataclass(frozen=True)
class _Parsed:
    """A bundle taken apart: what it says, and the very bytes that were signed.

    Attributes:
        statement: What it says.
        payload: The bytes of the statement.
        signature: The signature.
        certified: The key in the certificate of a keyless one.
    """

    statement: Statement
    payload: bytes
    signature: bytes
    certified: PublicKey | None = None


_AnyPart = TypeVar("_AnyPart", bound=Part)


def _statement(model_name: str, resources: Mapping[str, str]) -> dict[str, Any]:
    listed = sorted((name, digest.lower()) for name, digest in resources.items())
    return {
        "_type": _STATEMENT_TYPE,
        "subject": [{"name": model_name, "digest": {"sha256": _root(digest for _, digest in listed)}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "resources": [{"algorithm": "sha256", "name": name, "digest": digest} for name, digest in listed],
            "serialization": {
                "hash_type": "sha256",
                "method": "files",
                "ignore_paths": [],
                "allow_symlinks": False,
            },
        },
    }


def _root(digests: Iterable[str]) -> str:
    """The digest of the whole: SHA-256 over the raw digests in listed order, names not included."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _pae(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: the bytes that are really signed."""
    return b"DSSEv1 %d %b %d %b" % (len(_PAYLOAD_TYPE), _PAYLOAD_TYPE.encode(), len(payload), payload)


def _parsed(data: bytes) -> _Parsed:
    try:
        return _parse(data)
    except _Malformed as fault:
        raise _malformed(fault) from fault


def _malformed(fault: object) -> SignatureError:
    return SignatureError(
        f"The signature is not a well-formed OpenSSF Model Signing bundle: {fault}; "
        "get the signature file again from its source, or sign the checkpoint anew.",
        rule="T005",
    )


def _parse(data: bytes) -> _Parsed:
    if len(data) > _LARGEST:
        raise _Malformed(f"it has {len(data)} bytes where at most {_LARGEST} are expected")
    fields = _json(data, "the bundle")
    material = fields.get("verificationMaterial")
    is_keyless = isinstance(material, dict) and "certificate" in material
    bundle = _part(KeylessBundle, fields, "the bundle") if is_keyless else _part(Bundle, fields, "the bundle")
    envelope = bundle.dsse_envelope
    payload = _unbase64(envelope.payload, "dsseEnvelope.payload")
    statement = _part(InTotoStatement, _json(payload, "the signed payload"), "the signed payload")
    _check(statement)
    signature = _unbase64(envelope.signatures[0].sig, "dsseEnvelope.signatures.0.sig")
    name = statement.subject[0].name
    listed = {item.name: item.digest.lower() for item in statement.predicate.resources}
    if isinstance(bundle, KeylessBundle):
        certificate = _certificate(bundle)
        said = Statement(name, listed, certificate.identity.hint, certificate.identity)
        return _Parsed(said, payload, signature, PublicKey(certificate.key))
    hint = bundle.verification_material.public_key.hint
    if data != (canonical := _canonical(payload, signature, hint)):
        raise _Malformed(_departure(data, canonical))
    return _Parsed(Statement(name, listed, hint), payload, signature)


def _certificate(bundle: KeylessBundle) -> Certificate:
    from manifest.signing.file_names import text_fault
    from manifest.signing.identities import read_certificate

    if bundle.dsse_envelope.signatures[0].keyid:
        raise _Malformed("the signature has a key id, which is not signed, where none is expected")
    where = "verificationMaterial.certificate.rawBytes"
    try:
        certificate = read_certificate(_unbase64(bundle.verification_material.certificate.raw_bytes, where))
    except ValueError as error:
        raise _Malformed(f"the certificate {error}") from None
    for text in (certificate.identity.name, certificate.identity.issuer):
        if fault := text_fault(text):
            raise _Malformed(f"the certificate's {_clipped(text)} {fault}")
    return certificate


def _canonical(payload: bytes, signature: bytes, hint: str) -> bytes:
    """The bundle in the form in which the reference implementation writes it too, byte for byte."""
    bundle = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode()


def _departure(data: bytes, canonical: bytes) -> str:
    """Where a bundle first is not as this package and the reference implementation write it."""
    place = next((index for index, (a, b) in enumerate(zip(data, canonical, strict=False)) if a != b), None)
    if place is None:
        place = min(len(data), len(canonical))
    found, expected = (_clipped(text[place : place + 12].decode("utf-8", "replace")) for text in (data, canonical))
    return f"at byte {place:,} it has {found} where {expected} is expected, and what is not signed has one form only"


def _check(statement: InTotoStatement) -> None:
    """What types alone do not say: plain unique names, nothing ignored that is listed, a root digest that fits."""
    from manifest.signing.file_names import first_twins, name_fault, text_fault  # most commands read no signature

    subject, resources = statement.subject[0], statement.predicate.resources
    if fault := text_fault(subject.name):
        raise _Malformed(f"the model name {_clipped(subject.name)} {fault}")
    names = [item.name for item in resources]
    for name in names:
        if fault := name_fault(name):
            raise _Malformed(f"the file name {_clipped(name)} {fault}")
    if (twins := first_twins(names)) is not None:
        first, second = map(_clipped, twins)
        if first == second:
            raise _Malformed(f"the file name {first} is listed twice where once is expected")
        raise _Malformed(f"the file name {ascii(twins[1])[:80]} can be taken for {first}, which is listed too")
    for ignored in statement.predicate.serialization.ignore_paths:
        if covered := next((name for name in names if _covers(ignored, name)), None):
            raise _Malformed(
                f"`ignore_paths` has {_clipped(ignored)}, which covers the listed file {_clipped(covered)}, "
                "where only unlisted files are expected"
            )
    root = _root(item.digest for item in resources)
    if subject.digest.sha256.lower() != root:
        raise _Malformed(
            f"the subject's digest is {subject.digest.sha256.lower()} where the listed files' digests give {root}"
        )


def _covers(ignored: str, name: str) -> bool:
    """Whether a reader that honours `ignore_paths` would skip a file because of this one."""
    path = PurePosixPath(posixpath.normpath(ignored.replace("\\", "/")))
    upwards_only = set(path.parts) <= {"..", "/", "//"}  # the directory itself, or one that holds it
    return upwards_only or PurePosixPath(name).is_relative_to(path)


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        return read_object(data)
    except NotStrictError as error:
        raise _Malformed(f"{where} {error}") from None


def _part(model: type[_AnyPart], value: Any, where: str) -> _AnyPart:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        fault = first_fault(error, model)
        if fault.where == TOP:
            raise _Malformed(f"{where} is not a JSON object but {_clipped(value)}") from error
        if fault.kind == "missing":
            raise _Malformed(f"`{fault.where}` of {where} is missing") from error
        if fault.kind == UNKNOWN_FIELD:
            raise _Malformed(f"{where} has the unknown key `{fault.where}`") from error
        what = fault.what[:1].lower() + fault.what[1:]
        raise _Malformed(f"`{fault.where}` of {where} is {_clipped(fault.found)} ({what})") from error


def _unbase64(text: str, where: str) -> bytes:
    """Decode standard base64 that has exactly one spelling."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _Malformed(f"`{where}` is not base64 ({error})") from error
    if base64.b64encode(decoded).decode() != text:
        raise _Malformed(f"`{where}` is base64 with stray bits or padding")
    return decoded


def _clipped(value: object) -> str:
    """A value as it may stand in a message: quoted, escaped, and short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _not_signed_by(keys: Sequence[PublicSigner], statement: Statement) -> SignatureError:
    given = ", ".join(key.hint if isinstance(key, PublicKey) else key.title for key in keys)
    named = f"names {statement.signer if statement.identity else f'the key {_clipped(statement.hint)}'}"
    if not keys:
        found = f"The signature {named} and no public key was given to check it"
        cure = "pass the signer's public key"
    elif statement.hint in {key.hint for key in keys}:
        found = f"The signature {named}, which was given, and does not hold under it: what it signs was changed"
        cure = "get the checkpoint, its manifest and its signature again from their source"
    else:
        found = f"The signature {named} and holds under none of the keys given ({given})"
        cure = "pass the public key of the signer you trust, or get the signature again from its source"
    return SignatureError(f"{found}; {cure}.", rule="T003")

"""Identities that Sigstore vouches for: somebody's address, or a workflow's, as an OpenID Connect issuer knows it.

A signature by one carries a certificate of some minutes that names it. What is read here is what a certificate says;
whether it holds, `keyless` asks the library `sigstore`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from manifest.errors import KeyFileError
from manifest.escaping import printable
from manifest.lazily import lazily

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
else:  # most checkpoints are read without a certificate
    ec = lazily("cryptography.hazmat.primitives.asymmetric.ec")
    x509 = lazily("cryptography.x509")

SCHEME = "sigstore:"
_ISSUER = "1.3.6.1.4.1.57264.1.1"
"""The certificate's extension that names the issuer (https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md)."""
_PARTS = ("issuer", "instance")


@dataclass(frozen=True)
class Identity:
    """Somebody whom an issuer knows.

    Attributes:
        name: An e-mail address, or a URI as that of a workflow; as the certificate has it.
        issuer: Address of the OpenID Connect issuer.
        instance: The file that describes the instance of Sigstore whose certificates count; None for the public one.
    """

    name: str
    issuer: str
    instance: Path | None = None

    @property
    def hint(self) -> str:
        """SHA-256 of the URI, as 64 hexadecimal digits: what a manifest has where it would have that of a key."""
        return hashlib.sha256(f"{SCHEME}{self.name}?issuer={self.issuer}".encode()).hexdigest()

    @property
    def title(self) -> str:
        """For a person."""
        return printable(f"{self.name} of {self.issuer}", 300)


@dataclass(frozen=True)
class IdentityUri:
    """What a URI such as `sigstore:release@acme.example?issuer=https://accounts.google.com` says.

    Attributes:
        name: The identity; None where it is left out.
        issuer: Its issuer; None where it is left out.
        instance: The file that describes the instance; None for the public one.
    """

    name: str | None
    issuer: str | None
    instance: Path | None

    @classmethod
    def parse(cls, uri: str) -> IdentityUri:
        """The parts of a URI that begins with `sigstore:`.

        Raises:
            KeyFileError: It has other parts.
        """
        name, asked, query = uri.removeprefix(SCHEME).partition("?")
        parts = parse_qsl(query, keep_blank_values=True)
        given = dict(parts)
        if (asked and not parts) or len(given) < len(parts) or not all(given.get(part, "x") for part in _PARTS):
            raise _not_understood(uri)
        if set(given) - set(_PARTS):
            raise _not_understood(uri)
        instance = given.get("instance")
        return cls(name or None, given.get("issuer"), Path(instance) if instance else None)

    def identity(self, uri: str) -> Identity:
        """The identity that is trusted.

        Raises:
            KeyFileError: Name or issuer is left out.
        """
        if self.name is None or self.issuer is None:
            raise KeyFileError(
                f"{printable(uri)} does not say who is trusted, expected the identity and its issuer, as in "
                "sigstore:release@acme.example?issuer=https://accounts.google.com."
            )
        return Identity(self.name, self.issuer, self.instance)


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes:
        identity: Whom it names.
        key: Whose signatures it vouches for, on P-256.
    """

    identity: Identity
    key: ec.EllipticCurvePublicKey


def read_certificate(data: bytes) -> Certificate:
    """What a certificate (DER) says; whether it holds is not checked.

    Raises:
        ValueError: It cannot be read, or names nobody or several; the message continues "the certificate".
    """
    try:
        certificate = x509.load_der_x509_certificate(data)
        key, extensions = certificate.public_key(), certificate.extensions
        issuer = extensions.get_extension_for_oid(x509.ObjectIdentifier(_ISSUER)).value
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever the library makes of hostile bytes
        raise ValueError("is none that Sigstore makes") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ValueError("has another key than one on the curve P-256")
    found = [*names]
    if len(found) != 1 or not isinstance(name := found[0], x509.RFC822Name | x509.UniformResourceIdentifier):
        raise ValueError("names other than one e-mail address or one URI")
    assert isinstance(issuer, x509.UnrecognizedExtension)
    try:
        return Certificate(Identity(name.value, issuer.value.decode()), key)
    except UnicodeDecodeError:
        raise ValueError("names an issuer that is no text") from None


def _not_understood(uri: str) -> KeyFileError:
    return KeyFileError(
        f"{printable(uri)} is not understood, expected sigstore:IDENTITY?issuer=URL, and &instance=FILE of another "
        "instance than the public one; to sign, each may be left out."
    )

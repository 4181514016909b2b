"""Private keys that never leave where they are: in a hardware token by PKCS #11, in AWS KMS; through securesystemslib.

A digest goes there and a signature comes back, which is checked here by the public key before anybody gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from manifest.errors import InputError, KeyFileError, one_line
from manifest.escaping import printable
from manifest.installing import install_command
from manifest.signing.keys import PrivateKey, PublicKey, parse_public_key

if TYPE_CHECKING:
    from securesystemslib.signer import Signer, SSlibKey

Secret = Callable[[str], str]

_NOT_SUPPORTED = ("gcpkms", "azurekms", "hv", "sigstore", "gnupg", "tkey", "file2")


def remote_key(uri: str, pin: bytes | None) -> PrivateKey | None:
    """The private key at a URI such as `hsm:2?label=release` or `awskms:alias/release`; None for any other scheme.

    Args:
        uri: `hsm:ID?label=TOKEN`, of a token whose PKCS #11 library `$PYKCS11LIB` names; or `awskms:KEY`, an
            identifier, alias or ARN, with the credentials that AWS's own tools use.
        pin: Opens the token; asked for when it signs.

    Raises:
        KeyFileError: It cannot be reached, or is of another kind.
    """
    scheme, _, rest = uri.partition(":")
    if scheme in _NOT_SUPPORTED:
        raise KeyFileError(
            f"The key {printable(uri)} is of the scheme `{scheme}:`, which is not supported; use a file, `env:`, or "
            f"with {install_command('signers')} a token (`hsm:`) or AWS KMS (`awskms:`)."
        )
    if scheme not in ("hsm", "awskms"):
        return None
    try:
        signers = import_module("securesystemslib.signer")
        if scheme == "hsm":
            found = _in_token(signers.HSMSigner, rest, _secret(uri, pin))
        else:
            found = signers.AWSSigner.import_(rest)
        return _key(uri, signers.Signer, found, _secret(uri, pin))
    except Exception as error:  # of the token's library, of the network, or of securesystemslib
        raise _unusable(uri, error) from None


def _in_token(kind: type[Signer], rest: str, secret: Secret) -> tuple[str, SSlibKey]:
    parts = urlsplit(rest)
    if parts.path and not parts.path.isdecimal():
        raise InputError(f"the identifier is '{printable(parts.path)}', expected a number, as in hsm:2?label=release")
    number, label = int(parts.path) if parts.path else None, dict(parse_qsl(parts.query)).get("label")
    found: tuple[str, SSlibKey] = kind.import_(number, label, secret)
    return found


def _key(uri: str, kind: type[Signer], found: tuple[str, SSlibKey], secret: Secret) -> PrivateKey:
    place, described = found
    public = parse_public_key(described.keyval["public"], printable(uri))
    signer = kind.from_priv_key_uri(place, described, secret)

    def sign(data: bytes) -> bytes:
        try:
            signature = bytes.fromhex(signer.sign(data).signature)
        except Exception as error:
            raise _unusable(uri, error) from None
        return _checked(uri, public, signature, data)

    return PrivateKey(public, sign)


def _checked(uri: str, public: PublicKey, signature: bytes, data: bytes) -> bytes:
    if not public.verify(signature, data):
        raise KeyFileError(f"What {printable(uri)} gave back is no signature by its own key; check the key there.")
    return signature


def _secret(uri: str, pin: bytes | None) -> Secret:
    def tell(what: str) -> str:
        if pin is None:
            raise InputError(f"the {what} of {printable(uri)} is wanted and was not given; give it as the passphrase")
        return pin.decode()

    return tell


def _unusable(uri: str, error: Exception) -> KeyFileError:
    if isinstance(error, KeyFileError):
        return error
    if isinstance(error, ImportError) or type(error).__name__ == "UnsupportedLibraryError":
        scheme = uri.partition(":")[0]
        return KeyFileError(f"A key of the scheme `{scheme}:` needs further libraries: `{install_command('signers')}`.")
    reason = printable(one_line(error), 200) or type(error).__name__
    return KeyFileError(f"The key {printable(uri)} cannot be used ({reason}); check that it is there and may be used.")

"""Private keys that never leave where they are: in a hardware token, in a key service of a cloud, in HashiCorp Vault.

A digest goes there, to Vault what is signed, and a signature comes back, which is checked here by the public key before
anybody gets it. `securesystemslib` speaks to all of them but Vault, of which it takes Ed25519 keys only.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from manifest.errors import InputError, KeyFileError, one_line
from manifest.escaping import printable
from manifest.installing import install_command
from manifest.signing.keys import PrivateKey, PublicKey, parse_public_key

if TYPE_CHECKING:
    from securesystemslib.signer import Signer, SSlibKey

Secret = Callable[[str], str]

_SUPPORTED = ("hsm", "awskms", "gcpkms", "azurekms", "hv")
_NOT_SUPPORTED = ("gnupg", "tkey", "file2")
_AZURE = ".vault.azure.net"


def remote_key(uri: str, pin: bytes | None) -> PrivateKey | None:
    """The private key at a URI such as `hsm:2?label=release` or `awskms:alias/release`; None for any other scheme.

    Args:
        uri: `hsm:ID?label=TOKEN`, of a token whose PKCS #11 library `$PYKCS11LIB` names; `awskms:KEY`, an identifier,
            alias or ARN; `gcpkms:projects/…/cryptoKeyVersions/N`; `azurekms://VAULT.vault.azure.net/keys/KEY`; or
            `hv:KEY` with or without `/VERSION`, of Vault's transit engine. Credentials are those that the service's own
            tools use.
        pin: Opens the token; asked for when it signs.

    Raises:
        KeyFileError: It cannot be reached, or is of another kind.
    """
    scheme, _, rest = uri.partition(":")
    if scheme in _NOT_SUPPORTED:
        raise KeyFileError(
            f"The key {printable(uri)} is of the scheme `{scheme}:`, which is not supported; use a file, `env:`, or "
            f"with {install_command('signers')} one of {', '.join(f'`{each}:`' for each in _SUPPORTED)}."
        )
    if scheme not in _SUPPORTED:
        return None
    try:
        if scheme == "hv":
            return _in_vault(uri, rest)
        signers = import_module("securesystemslib.signer")
        secret = _secret(uri, pin)
        return _key(uri, signers.Signer, _found(signers, scheme, rest, secret), secret)
    except Exception as error:  # of the token's library, of the network, or of securesystemslib
        raise _unusable(uri, error) from None


def _found(signers: Any, scheme: str, rest: str, secret: Secret) -> tuple[str, SSlibKey]:
    """Where a key is, in the words of securesystemslib, and its public half."""
    found: tuple[str, SSlibKey]
    if scheme == "hsm":
        found = _in_token(signers.HSMSigner, rest, secret)
    elif scheme == "azurekms":
        found = _in_azure(signers.AzureSigner, rest)
    else:
        found = {"awskms": signers.AWSSigner, "gcpkms": signers.GCPSigner}[scheme].import_(rest)
    return found


def _in_azure(kind: type[Signer], rest: str) -> tuple[str, SSlibKey]:
    """The newest version of a key, which must be the one that is asked for."""
    parts = urlsplit(rest)
    path = parts.path.strip("/").split("/")
    vault = parts.netloc.removesuffix(_AZURE)
    if not vault or vault == parts.netloc or len(path) not in (2, 3) or path[0] != "keys" or parts.query:
        raise InputError(f"it is not understood, expected azurekms://VAULT{_AZURE}/keys/KEY")
    found: tuple[str, SSlibKey] = kind.import_(vault, path[1])
    if len(path) == 3 and not found[0].endswith(f"/{path[2]}"):
        raise InputError(f"the newest version there is {printable(found[0])}; leave the version out")
    return found


def _in_vault(uri: str, rest: str) -> PrivateKey:
    """A key of the transit engine at `$VAULT_ADDR`, by the token `$VAULT_TOKEN` or that of `vault login`."""
    name, _, version = rest.partition("/")
    transit = import_module("hvac").Client().secrets.transit
    described = transit.read_key(name)["data"]
    number = version or str(described["latest_version"])
    if number not in described["keys"]:
        raise InputError(f"there is no version '{printable(number)}', expected one of {', '.join(described['keys'])}")
    held = described["keys"][number]
    if not isinstance(held, dict):  # of a symmetric key it is the time when it was made
        raise InputError(f"it is of the kind {printable(str(described['type']))}, expected an elliptic-curve key")
    public = parse_public_key(held["public_key"], printable(uri))

    def sign(data: bytes) -> bytes:
        answer = transit.sign_data(
            name,
            b64encode(data).decode(),
            key_version=int(number),
            hash_algorithm=public.hash_name.replace("sha", "sha2-"),
            marshaling_algorithm="asn1",
        )
        return b64decode(answer["data"]["signature"].rpartition(":")[2])

    return _signing(uri, public, sign)


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

    return _signing(uri, public, lambda data: bytes.fromhex(signer.sign(data).signature))


def _signing(uri: str, public: PublicKey, sign: Callable[[bytes], bytes]) -> PrivateKey:
    """A private key whose signatures are made elsewhere, and checked by its public half."""

    def checked(data: bytes) -> bytes:
        try:
            signature = sign(data)
        except Exception as error:
            raise _unusable(uri, error) from None
        if not public.verify(signature, data):
            raise KeyFileError(f"What {printable(uri)} gave back is no signature by its own key; check the key there.")
        return signature

    return PrivateKey(public, checked)


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

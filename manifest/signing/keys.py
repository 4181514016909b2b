"""Elliptic-curve keys: reading, signing with and checking by them; `generating` makes them.

OpenSSF Model Signing v1.0 lists ECDSA over P-256, P-384 and P-521, each with the hash of its size, and nothing else:
RSA and Ed25519 are refused here although the library underneath could use them. A key is named by URI, so that it can
live where it belongs: `release.key` or `file:release.key` for a file, `env:VARIABLE` for PEM text in the environment,
`hsm:` and the schemes of key services for one that never leaves its place, which `remote_keys` knows.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from manifest.errors import KeyFileError, PassphraseMissingError
from manifest.lazily import lazily
from manifest.warning import warn

if TYPE_CHECKING:
    from cryptography import exceptions
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from manifest.signing.identities import Identity
    from manifest.signing.keyless import KeylessSigner
else:  # most checkpoints are read without a key
    exceptions = lazily("cryptography.exceptions")
    hashes = lazily("cryptography.hazmat.primitives.hashes")
    serialization = lazily("cryptography.hazmat.primitives.serialization")
    ec = lazily("cryptography.hazmat.primitives.asymmetric.ec")

_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "secp256r1": lambda: hashes.SHA256(),
    "secp384r1": lambda: hashes.SHA384(),
    "secp521r1": lambda: hashes.SHA512(),
}
_EXPECTED = "expected an elliptic-curve key on P-256, P-384 or P-521"
_KEYGEN = "make one by `manifest keygen NAME`"
_LONGEST = 1 << 14  # bytes; a PEM key has under two thousand, so more is another kind of file
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----\n?", re.DOTALL)
_PARAMETERS = "EC PARAMETERS"
"""Label of the block that `openssl ecparam -genkey` writes in front of a key."""
_AnyKey = TypeVar("_AnyKey")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")  # two letters at least: one is a Windows drive


@dataclass(frozen=True)
class PublicKey:
    """What checks signatures."""

    _key: ec.EllipticCurvePublicKey = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The key as PEM SubjectPublicKeyInfo, trailing newline included."""
        return self._key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def hint(self) -> str:
        """SHA-256 of `pem` as 64 hexadecimal digits: the name by which a bundle refers to its key."""
        return hashlib.sha256(self.pem).hexdigest()

    @property
    def hash_name(self) -> str:
        """What is hashed by, as `hashlib` has it."""
        return _HASHES[self._key.curve.name]().name

    @property
    def title(self) -> str:
        """For a person."""
        return f"key {self.hint[:16]}"

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether `signature` (DER, ECDSA) was made over `data` by the private half of this key."""
        try:
            self._key.verify(signature, data, _algorithm(self._key))
        except exceptions.InvalidSignature:
            return False
        return True

    def __reduce__(self) -> tuple[object, ...]:
        """For other processes, by its PEM: the key of `cryptography` cannot be pickled."""
        return parse_public_key, (self.pem.decode(), "the key")


PublicSigner: TypeAlias = "PublicKey | Identity"
"""Whose signature is checked: that of a key, or of an identity."""
Trusted: TypeAlias = "str | os.PathLike[str] | PublicSigner | Sequence[PublicSigner] | None"
"""Public keys or identities of the signers that are trusted: by a URI, or as they are."""


@dataclass(frozen=True)
class PrivateKey:
    """What makes signatures.

    Attributes:
        public: What checks them.
        sign: Makes the DER-encoded ECDSA signature of bytes, hashed by the curve's hash: SHA-256, SHA-384 or SHA-512.
    """

    public: PublicKey = field(repr=False)
    sign: Callable[[bytes], bytes] = field(repr=False)

    @classmethod
    def of(cls, key: ec.EllipticCurvePrivateKey) -> PrivateKey:
        """One that is in memory."""
        return cls(PublicKey(key.public_key()), lambda data: key.sign(data, _algorithm(key)))


PrivateSigner: TypeAlias = "PrivateKey | KeylessSigner"
"""Who signs: a key, or an identity."""


def private_key(key: str | os.PathLike[str] | PrivateSigner, passphrase: bytes | None = None) -> PrivateSigner:
    """Who signs, read where it is not read already; see `load_private_key`."""
    return load_private_key(os.fspath(key), passphrase) if isinstance(key, str | os.PathLike) else key


def load_private_key(uri: str | Path, passphrase: bytes | None = None) -> PrivateSigner:
    """Read a private key, or find out which identity signs.

    Args:
        uri: `release.key`, `file:release.key`, `env:VARIABLE` holding PEM text; `hsm:…` or a key service, as
            `remote_keys.remote_key` takes it; `sigstore:`, as `keyless.keyless_signer` takes it.
        passphrase: Opens an encrypted key or a token; ignored when the key is not encrypted.

    Raises:
        PassphraseMissingError: The key is encrypted and no passphrase was given.
        KeyFileError: There is no such key, it is of another kind, others can read it, or the passphrase does not open
            it.
    """
    if _scheme(uri) == "sigstore":
        from manifest.signing.keyless import keyless_signer

        return keyless_signer(str(uri))
    if (remote := _remote(uri, passphrase)) is not None:
        return remote
    where = _shown(uri)
    blocks = [block for block in _pem_blocks(_pem_text(uri), where) if block[0] != _PARAMETERS]
    if wrong := next((label for label, _ in blocks if not label.endswith("PRIVATE KEY")), None):
        raise KeyFileError(
            f"{where} holds a {wrong.lower()} where a private key is expected; "
            "pass the file that `manifest keygen` wrote with the ending `.key`."
        )
    if len(blocks) > 1:
        raise KeyFileError(
            f"{where} holds {len(blocks)} private keys where one is expected to sign with; "
            "put the one that you mean into a file of its own."
        )
    label, pem = blocks[0]
    encrypted = "ENCRYPTED" in label or "Proc-Type: 4,ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise PassphraseMissingError(
            f"{where} holds an encrypted private key and no passphrase was given; pass its passphrase."
        )
    try:
        key = serialization.load_pem_private_key(pem.encode(), passphrase if encrypted else None)
    except (ValueError, TypeError, exceptions.UnsupportedAlgorithm) as error:
        if encrypted:
            raise KeyFileError(
                f"{where} holds an encrypted private key that the passphrase does not open; "
                "check the passphrase, or get the file again if it is damaged."
            ) from error
        raise _unreadable(where, label) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _other_kind(where, key)
    _check_curve(where, key.curve)
    if (path := _path_of(uri)) is not None:
        _require_private(path)
    return PrivateKey.of(key)


def public_keys(key: Trusted) -> tuple[PublicSigner, ...]:
    """The public keys or identities of the signers that are trusted, any of whom may have signed; none of None.

    Raises:
        KeyFileError: There is no such key, or one is of another kind.
    """
    if key is None:
        return ()
    if isinstance(key, Sequence) and not isinstance(key, str):
        return tuple(key)
    return load_public_keys(os.fspath(key)) if isinstance(key, str | os.PathLike) else (key,)


def load_public_key(uri: str | Path) -> PublicSigner:
    """Read the only public key there, or identity; see `load_public_keys`."""
    return _only(load_public_keys(uri), _shown(uri))


def parse_public_key(pem: str, where: str) -> PublicKey:
    """The only public key in PEM text.

    Args:
        pem: The text.
        where: How a message calls the place where it stands.

    Raises:
        KeyFileError: There is none or another, it is of another kind, or something else is there too.
    """
    return _only(_public_keys_in(pem, where), where)


def _only(keys: tuple[_AnyKey, ...], where: str) -> _AnyKey:
    if len(keys) > 1:
        raise KeyFileError(
            f"{where} holds {len(keys)} public keys where one is expected; "
            "put the one that you mean into a file of its own."
        )
    return keys[0]


def load_public_keys(uri: str | Path) -> tuple[PublicSigner, ...]:
    """Read public keys, each once: a file may hold several, all of which are meant.

    Args:
        uri: `release.pub`, `file:release.pub`, `env:VARIABLE` holding PEM text; `hsm:…` or a key service for the
            public half of a key there; `sigstore:IDENTITY?issuer=URL` for an identity.

    Raises:
        KeyFileError: There is no such key, it is of another kind, or something else is there too.
    """
    if _scheme(uri) == "sigstore":
        from manifest.signing.identities import IdentityUri

        return (IdentityUri.parse(str(uri)).identity(str(uri)),)
    if (remote := _remote(uri, None)) is not None:
        return (remote.public,)
    return _public_keys_in(_pem_text(uri), _shown(uri))


def _public_keys_in(text: str, where: str) -> tuple[PublicKey, ...]:
    blocks = _pem_blocks(text, where)
    if any(label.endswith("PRIVATE KEY") for label, _ in blocks):
        raise KeyFileError(
            f"{where} holds a private key where a public key is expected; "
            "pass the file that `manifest keygen` wrote with the ending `.pub`, and keep the private key to yourself."
        )
    if wrong := next((label for label, _ in blocks if not label.endswith("PUBLIC KEY")), None):
        raise KeyFileError(
            f"{where} holds a {wrong.lower()} where a public key is expected; "
            "pass the file that `manifest keygen` wrote with the ending `.pub`."
        )
    keys = [_public_key(where, label, pem) for label, pem in blocks]
    return tuple({key.hint: key for key in keys}.values())


def _public_key(where: str, label: str, pem: str) -> PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise _unreadable(where, label) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise _other_kind(where, key)
    _check_curve(where, key.curve)
    return PublicKey(key)


def _algorithm(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> ec.ECDSA:
    return ec.ECDSA(_HASHES[key.curve.name]())


def _remote(uri: str | Path, passphrase: bytes | None) -> PrivateKey | None:
    """The key at a URI that is neither a file nor in the environment."""
    if _scheme(uri) in (None, "file", "env"):
        return None
    from manifest.signing.remote_keys import remote_key

    return remote_key(str(uri), passphrase)


def _scheme(uri: str | Path) -> str | None:
    """The scheme of a URI; None of a path."""
    scheme = None if isinstance(uri, Path) else _SCHEME.match(uri)
    return None if scheme is None else scheme[1]


def _pem_text(uri: str | Path) -> str:
    """The text that a URI leads to."""
    if (path := _path_of(uri)) is not None:
        return _file_text(path)
    scheme = _SCHEME.match(str(uri))
    assert scheme is not None
    rest = str(uri)[scheme.end() :]
    if scheme[1] == "env":
        return _variable_text(rest)
    raise KeyFileError(
        f"The key {uri!r} is of the scheme `{scheme[1]}:` where a path, `file:`, `env:`, `hsm:`, `sigstore:` or a "
        "key service, as `awskms:`, is expected; "
        f"write `file:{uri}` if it is a file of that name."
    )


def _path_of(uri: str | Path) -> Path | None:
    """The file that a URI names; None where it names something else."""
    if isinstance(uri, Path):
        return uri
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return Path(uri)
    return Path(uri[scheme.end() :]) if scheme[1] == "file" else None


def _file_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
    except FileNotFoundError:
        raise KeyFileError(f"There is no key file {path}; check the path, or {_KEYGEN}.") from None
    except OSError as error:
        raise KeyFileError(
            f"The key file {path} cannot be read ({error.strerror or error}); "
            "check that it is a file and that you may read it."
        ) from error
    # Latin-1 takes any bytes; what is not PEM then fails for having no PEM block.
    return data.decode("latin-1") if len(data) <= _LONGEST else ""


def _require_private(path: Path) -> None:
    """Refuse a private key that others than its owner can read; a pipe has no other readers.

    Raises:
        KeyFileError: They can.
    """
    mode = path.stat().st_mode
    if os.name == "nt":
        warn(f"Who can read the private key {path} is not checked on this system; see to it that only you can.")
    elif stat.S_ISREG(mode) and mode & 0o077:
        raise KeyFileError(
            f"The private key {path} has the mode {stat.S_IMODE(mode):04o}, so that others can read it, expected 0600; "
            f"run `chmod 600 {path}`, or give it as `env:VARIABLE`; make a new key if somebody may have read it."
        )


def _variable_text(name: str) -> str:
    text = os.environ.get(name)
    if not text:
        raise KeyFileError(
            f"The environment variable {name!r} is not set where PEM text of a key is expected; "
            "set it to the contents of the key file."
        )
    return text


def _pem_blocks(text: str, where: str) -> list[tuple[str, str]]:
    """Label and text of every block; there is nothing else but lines that are empty or begin with `#`.

    A block that is damaged so far that it is none any more would else be left out in silence.
    """
    blocks = [(match[1], match[0]) for match in _PEM.finditer(text)]
    if not any(label != _PARAMETERS for label, _ in blocks):
        raise KeyFileError(f"{where} holds no PEM key; {_EXPECTED} that begins with `-----BEGIN`; {_KEYGEN}.")
    outside = _PEM.sub("\n", text)
    stray = [line for line in outside.splitlines() if line.strip() and not line.startswith("#")]
    if stray or any("-----BEGIN" in block[1:] for _, block in blocks):
        raise KeyFileError(
            f"{where} holds other lines than those of whole PEM blocks, a damaged block perhaps; "
            "get the file again, or remove them or begin them with `#`."
        )
    return blocks


def _shown(uri: str | Path) -> str:
    return str(uri).removeprefix("file:")


def _check_curve(where: str, curve: ec.EllipticCurve) -> None:
    if curve.name not in _HASHES:
        raise KeyFileError(f"{where} holds a key on the curve {curve.name}; {_EXPECTED}; {_KEYGEN}.")


def _other_kind(where: str, key: object) -> KeyFileError:
    kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey").removesuffix("PublicKey")
    return KeyFileError(
        f"{where} holds a key of the kind {kind}; {_EXPECTED}, the only kinds of OpenSSF Model Signing; {_KEYGEN}."
    )


def _unreadable(where: str, label: str) -> KeyFileError:
    return KeyFileError(
        f"{where} holds a block marked {label} that cannot be read as one; {_EXPECTED}; "
        f"get the file again, or {_KEYGEN}."
    )

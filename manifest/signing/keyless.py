"""Keyless signatures: by an identity, with a certificate of some minutes and an entry in a public log, by `sigstore`.

Checking needs no network: the keys of the certificate authority and of the logs, the trust root, come with the library
or out of a file. The library checks the chain of the certificate, that it was logged, that the signature was logged
while the certificate was valid, and the signature. It passes over what nobody signs, so that is held here to one form.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifest.errors import InputError, KeyFileError, SignatureError, one_line
from manifest.escaping import printable
from manifest.installing import install_command
from manifest.signing.identities import Identity, IdentityUri

if TYPE_CHECKING:
    from sigstore import models, oidc

TOKEN_VARIABLE = "SIGSTORE_IDENTITY_TOKEN"
"""The environment variable with the token of an identity, by the name that Sigstore's own client has for it."""
_PUBLIC = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"
_LARGEST = 4 << 20  # bytes of a file that describes an instance
_NOTE_LINE = re.compile("— ([^ ]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True)
class KeylessSigner:
    """An identity that signs.

    Attributes:
        public: Who it is.
        bundle: Makes the bundle of an in-toto statement: signs, and has the signature logged.
    """

    public: Identity
    bundle: Callable[[bytes], bytes] = field(repr=False)


def verify_keyless(data: bytes, identity: Identity) -> bytes:
    """The payload that an identity signed, offline.

    Args:
        data: The bundle.
        identity: Who is to have signed it.

    Raises:
        SignatureError: With rule `T019`: it does not hold by the trust root of the identity's instance.
        InputError: The library is not installed, or the instance's file is none.
    """
    library, verifying = _library("sigstore.models"), _library("sigstore.verify")
    root = _trusted_root(library, identity.instance)
    try:
        bundle = library.Bundle.from_json(data)
        _require_one_form(data, bundle)
        policy = verifying.policy.Identity(identity=identity.name, issuer=identity.issuer)
        _, payload = verifying.Verifier(trusted_root=root).verify_dsse(bundle, policy)
    except Exception as error:  # whatever the library makes of hostile bytes
        raise _unproven(identity, error) from None
    return bytes(payload)


def keyless_signer(uri: str) -> KeylessSigner:
    """Whoever the token of the environment, of the place where this runs, or of a browser says it is.

    Args:
        uri: `sigstore:`; with an identity and an issuer, no other may sign; `?instance=FILE` for another instance than
            the public one, which is described by a client trust configuration of Sigstore.

    Raises:
        KeyFileError: There is no token, it is of somebody else, or, when it signs, the services do not take it.
        InputError: The library is not installed, or the instance's file is none.
    """
    asked = IdentityUri.parse(uri)
    library, tokens = _library("sigstore.models"), _library("sigstore.oidc")
    with _told(uri):
        config = _configuration(library, asked.instance)
        token = _token(tokens, config)
    identity = Identity(token.identity, token.federated_issuer, asked.instance)
    if asked.name not in (None, identity.name) or asked.issuer not in (None, identity.issuer):
        raise KeyFileError(
            f"The token is of {identity.title}, and {printable(uri, 300)} is expected; sign in as that one."
        )

    def bundle(payload: bytes) -> bytes:
        signing, dsse = _library("sigstore.sign"), _library("sigstore.dsse")
        with _told(uri), signing.SigningContext.from_trust_config(config).signer(token) as signer:
            data: bytes = signer.sign_dsse(dsse.Statement(payload)).to_json().encode()
            if verify_keyless(data, identity) != payload:
                raise ValueError("another payload came back")
        return data

    return KeylessSigner(identity, bundle)


@contextlib.contextmanager
def _told(uri: str) -> Iterator[None]:
    """Turns what goes wrong with the services into one sentence, without the token."""
    try:
        yield
    except (InputError, KeyFileError, SignatureError):
        raise
    except Exception as error:
        raise KeyFileError(
            f"{printable(uri)} cannot sign ({_reason(error)}); check the network and that the token is valid."
        ) from None


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"A keyless signature needs the library sigstore: `{install_command('sigstore')}`.") from None


def _trusted_root(library: Any, instance: Path | None) -> models.TrustedRoot:
    """The keys of an instance, the public one's as they came with the library."""
    if instance is not None:
        return _configuration_of(library, instance)[0]
    packaged = resources.files("sigstore").joinpath("_store", _PUBLIC, "trusted_root.json")
    with resources.as_file(packaged) as path:
        if not path.is_file():
            raise InputError("This version of the library sigstore has no trust root with it; install another version.")
        root: models.TrustedRoot = library.TrustedRoot.from_file(str(path))
        return root


def _configuration(library: Any, instance: Path | None) -> models.ClientTrustConfig:
    """Where an instance's services are; of the public one, as it says today."""
    if instance is None:
        public: models.ClientTrustConfig = library.ClientTrustConfig.production()
        return public
    config = _configuration_of(library, instance)[1]
    if config is None:
        raise InputError(
            f"{printable(str(instance), 300)} has the keys of an instance of Sigstore and not the addresses of its "
            "services, expected a client trust configuration with both; get that to sign."
        )
    return config


def _configuration_of(library: Any, path: Path) -> tuple[models.TrustedRoot, models.ClientTrustConfig | None]:
    """The trust root in a file, and the addresses where it has them too."""
    where = printable(str(path), 300)
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if len(text) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        if b'"signingConfig"' in text or b'"trustedRoot"' in text:
            config = library.ClientTrustConfig.from_json(text)
            return config.trusted_root, config
        return library.TrustedRoot.from_file(str(path)), None
    except Exception as error:  # of the file system, or of what the library makes of the file
        raise InputError(
            f"{where} cannot be read as the description of an instance of Sigstore ({_reason(error)}), expected its "
            "trusted_root.json or client trust configuration; get it from whoever runs the instance."
        ) from None


def _token(library: Any, config: models.ClientTrustConfig) -> oidc.IdentityToken:
    """The token in the environment, or that of the place, as a job of a CI service has one, or one by a browser."""
    raw = os.environ.get(TOKEN_VARIABLE) or library.detect_credential()
    token: oidc.IdentityToken
    if raw:
        token = library.IdentityToken(raw)
    elif sys.stdin.isatty():
        token = library.Issuer(config.signing_config.get_oidc_url()).identity_token()
    else:
        raise KeyFileError(
            f"There is no token of an identity to sign with, expected one in ${TOKEN_VARIABLE} or of the CI service; "
            "set it, or run this at a terminal to sign in by a browser."
        )
    return token


def _require_one_form(data: bytes, bundle: models.Bundle) -> None:
    """Refuse what the library passes over: other spellings, the size of the log's tree, lines beside its signature.

    Raises:
        ValueError: One of them is not as the library and the log write it.
    """
    if bundle.to_json().encode() != data:
        raise ValueError("the bundle is not spelled as Sigstore's client spells it")
    proof = json.loads(data)["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
    note, blank, lines = proof["checkpoint"]["envelope"].partition("\n\n")
    origin, _, rest = note.partition("\n")
    size = rest.partition("\n")[0]
    if size != proof["treeSize"]:
        raise ValueError(f"the proof is of a log with {proof['treeSize']} entries, and the log signed {size!r}")
    signatures = [_NOTE_LINE.fullmatch(line) for line in lines.removesuffix("\n").split("\n")]
    if not blank or not all(each is not None and _is_base64(each[2]) for each in signatures):
        raise ValueError("there are other lines than signatures below what the log signed")
    if origin.partition(" ")[0] not in [each[1] for each in signatures if each is not None]:
        raise ValueError("no signature below what the log signed has the log's name")


def _is_base64(text: str) -> bool:
    return len(text) % 4 == 0 and base64.b64encode(base64.b64decode(text)).decode() == text


def _unproven(identity: Identity, error: Exception) -> SignatureError:
    root = "the public instance" if identity.instance is None else printable(str(identity.instance), 300)
    return SignatureError(
        f"The signature names {identity.title} and does not hold by the trust root of {root} ({_reason(error)}); "
        "get the signature again from its source, or have the checkpoint signed anew.",
        rule="T019",
    )


def _reason(error: BaseException) -> str:
    """What went wrong, of the error itself or of the one that it came from; its first sentence."""
    while not str(error) and error.__cause__ is not None:
        error = error.__cause__
    return printable(one_line(error), 200) or type(error).__name__

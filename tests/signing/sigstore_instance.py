"""A small instance of Sigstore: an authority, a log of its certificates, a log of signatures, an issuer of tokens.

They are real: keys, X.509 certificates with signed certificate timestamps (RFC 6962), a Merkle tree with inclusion
proofs and signed checkpoints, answered over HTTP as Fulcio's, Rekor's and an OpenID Connect issuer's addresses are. So
Sigstore's own client signs here, and its verifier takes what comes out of it by the trust root that is written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sigstore.dsse import Statement
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext

from tests.local_server import JsonHandler, listening

IDENTITY = "release@acme.example"
WORKFLOW = "https://git.acme.example/digits/release.yml@refs/heads/main"
ISSUER = "https://accounts.acme.example"
URI = f"sigstore:{IDENTITY}?issuer={ISSUER}&instance=acme.json"
_SECRET = "the issuer's own secret, by which it knows its tokens"
_LOG_NAME = "log.acme.example"
_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_ECDSA = ec.ECDSA(hashes.SHA256())


def token(
    identity: str = IDENTITY, issuer: str = ISSUER, *, lasts: timedelta = timedelta(minutes=5), by: str = _SECRET
) -> str:
    """A token that the issuer, who has a secret, gives somebody."""
    now = datetime.now(UTC)
    claims = {"aud": "sigstore", "sub": identity, "iss": issuer, "iat": now - timedelta(hours=1), "exp": now + lasts}
    return jwt.encode(claims, by, algorithm="HS256")


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public half, SubjectPublicKeyInfo."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def base(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Instance:
    """The keys, what was logged, and how it misbehaves.

    Attributes:
        ca_key: The authority's.
        ct_key: That of the log of certificates.
        log_key: That of the log of signatures.
        leaves: What was logged.
        late: How much later than they are made signatures are logged, by the log's word.
        address: Where it is served.
    """

    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ct_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    log_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    leaves: list[bytes] = field(default_factory=lambda: [b"the first", b"the second", b"the third"])
    late: timedelta = timedelta()
    address: str = "https://sigstore.acme.example"

    def __post_init__(self) -> None:
        self.ca = self._authority()

    def configuration(self) -> dict[str, Any]:
        """What clients are told: the keys, and the addresses of the services."""
        since = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": base(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": since}
            ident = {"keyId": base(hashlib.sha256(der(key)).digest())}
            return {"baseUrl": self.address, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": ident}

        def service(version: int) -> list[dict[str, Any]]:
            return [{"url": self.address, "majorApiVersion": version, "validFor": since, "operator": "acme.example"}]

        authority = {
            "subject": {"organization": "acme.example", "commonName": "acme"},
            "uri": self.address,
            "certChain": {"certificates": [{"rawBytes": base(self.ca.public_bytes(serialization.Encoding.DER))}]},
            "validFor": since,
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log_key)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.ct_key)],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service(1),
                "oidcUrls": service(1),
                "rekorTlogUrls": service(1),
                "tsaUrls": [],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(self.configuration()))
        return path

    # The authority.

    def certificate(self, key: Any, claims: dict[str, Any]) -> x509.Certificate:
        """A certificate for somebody's key, with the timestamp of the log of certificates."""
        end = datetime.now(UTC) + timedelta(minutes=10)
        kind = x509.RFC822Name if "@" in claims["sub"].partition("/")[0] else x509.UniformResourceIdentifier
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(minutes=11))
            .not_valid_after(end)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([kind(claims["sub"])]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_OID, claims["iss"].encode()), critical=False)
        )
        unstamped = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        stamp = x509.UnrecognizedExtension(_TIMESTAMPS, self._timestamps(unstamped))
        return builder.add_extension(stamp, critical=False).sign(self.ca_key, hashes.SHA256())

    def _authority(self) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "acme")])
        public = self.ca_key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self.ca_key, hashes.SHA256())
        )

    def _timestamps(self, certificate: bytes) -> bytes:
        """One signed timestamp of a certificate without it, as RFC 6962 has it in an extension."""
        moment = int(datetime.now(UTC).timestamp() * 1000)
        entry = hashlib.sha256(der(self.ca_key)).digest() + len(certificate).to_bytes(3) + certificate
        signature = self.ct_key.sign(struct.pack("!BBQH", 0, 0, moment, 1) + entry + b"\x00\x00", _ECDSA)
        stamp = b"\x00" + hashlib.sha256(der(self.ct_key)).digest() + struct.pack("!QH", moment, 0)
        stamp += b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        listed = struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp
        return b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])) + listed

    # The log.

    def logged(self, envelope: bytes, verifier: str) -> dict[str, Any]:
        """The answer to who asks for a signature to be logged."""
        content = json.loads(envelope)
        body = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": _sha256(envelope),
                "payloadHash": _sha256(base64.b64decode(content["payload"])),
                "signatures": [{"signature": content["signatures"][0]["sig"], "verifier": verifier}],
            },
        }
        self.leaves.append(_canonical(body))
        return self.entry(len(self.leaves) - 1)

    def entry(self, index: int) -> dict[str, Any]:
        """One of the log's entries, with the promise and the proof that it is there."""
        ident = hashlib.sha256(der(self.log_key)).digest()
        told = {
            "body": base(self.leaves[index]),
            "integratedTime": int((datetime.now(UTC) + self.late).timestamp()),
            "logID": ident.hex(),
            "logIndex": index,
        }
        root = _tree(self.leaves)
        note = f"{_LOG_NAME} - 1\n{len(self.leaves)}\n{base(root)}\n"
        signature = base(ident[:4] + self.log_key.sign(note.encode(), _ECDSA))
        proof = {
            "checkpoint": f"{note}\n— {_LOG_NAME} {signature}\n",
            "hashes": [each.hex() for each in _path(self.leaves, index)],
            "logIndex": index,
            "rootHash": root.hex(),
            "treeSize": len(self.leaves),
        }
        promise = base(self.log_key.sign(_canonical(told), _ECDSA))
        return {ident.hex(): {**told, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}}


@contextmanager
def served(instance: Instance) -> Iterator[Instance]:
    """An instance at an address of this machine."""

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/v2/signingCert":
                self._certify(json.loads(asked))
            elif self.path == "/api/v1/log/entries":
                content = json.loads(asked)["spec"]["proposedContent"]
                self.answer(201, instance.logged(content["envelope"].encode(), content["verifiers"][0]))
            elif self.path == "/token":
                self.answer(200, {"access_token": token()} if parse_qs(asked.decode())["code"] == ["77"] else {})

        def do_GET(self) -> None:
            place = urlsplit(self.path)
            if place.path == "/.well-known/openid-configuration":
                ends = {f"{name}_endpoint": f"{instance.address}/{name}" for name in ("authorization", "token")}
                self.answer(200, ends)
            elif place.path == "/ambient":  # as a CI service answers its jobs
                allowed = self.headers["Authorization"] == "bearer of-the-job"
                self.answer(200 if allowed else 403, {"value": token(WORKFLOW)} if allowed else {})
            elif place.path == "/authorization":  # the person agrees at once
                asked = {name: values[0] for name, values in parse_qs(place.query).items()}
                self.send_response(302)
                self.send_header(
                    "Location", f"{asked['redirect_uri']}?{urlencode({'code': '77', 'state': asked['state']})}"
                )
                self.end_headers()

        def _certify(self, asked: dict[str, Any]) -> None:
            try:
                raw = self.headers["Authorization"].removeprefix("Bearer ")
                claims = jwt.decode(raw, _SECRET, algorithms=["HS256"], audience="sigstore")
            except jwt.InvalidTokenError:
                self.answer(401, {"code": 16, "message": "There was an error processing the identity token"})
                return
            request = x509.load_pem_x509_csr(base64.b64decode(asked["certificateSigningRequest"]))
            chain = [instance.certificate(request.public_key(), claims), instance.ca]
            texts = [each.public_bytes(serialization.Encoding.PEM).decode() for each in chain]
            self.answer(201, {"signedCertificateEmbeddedSct": {"chain": {"certificates": texts}}})

    with listening(Handler) as instance.address:
        yield instance


def signed_by(instance: Instance, payload: bytes, raw: str) -> bytes:
    """A bundle by the client of Sigstore alone, which looks at no more than the timestamp of the certificate."""
    config = ClientTrustConfig.from_json(json.dumps(instance.configuration()))
    with SigningContext.from_trust_config(config).signer(IdentityToken(raw)) as signer:
        return signer.sign_dsse(Statement(payload)).to_json().encode()


def _usage(**used: bool) -> x509.KeyUsage:
    kinds = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    further = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{kind: used.get(kind, False) for kind in (*kinds, *further)})


def _canonical(content: dict[str, Any]) -> bytes:
    """JSON as RFC 8785 has it, of the plain texts and numbers that are here."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> dict[str, str]:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _tree(leaves: list[bytes]) -> bytes:
    """The root of a Merkle tree (RFC 6962, section 2.1)."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    half = _half(len(leaves))
    return hashlib.sha256(b"\x01" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()


def _path(leaves: list[bytes], index: int) -> list[bytes]:
    """The proof that a leaf is in it (section 2.1.1), from the leaf upwards."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*_path(leaves[:half], index), _tree(leaves[half:])]
    return [*_path(leaves[half:], index - half), _tree(leaves[:half])]


def _half(count: int) -> int:
    """The largest power of two that is less than a number."""
    return 1 << (count - 1).bit_length() - 1

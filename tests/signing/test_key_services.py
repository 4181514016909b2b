"""Keys in HashiCorp Vault and Google's KMS, by the real clients against small servers of their kind; and in Azure's.

Each server has real keys and speaks as much of the service's protocol as reading a key and signing take: HTTP for
Vault, gRPC for Google's, whose client is told its address. Azure's client takes no address of this machine, so how its
keys are named is tested, and not that they sign.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

import manifest
from manifest.errors import KeyFileError
from manifest.signing import load_private_key, load_public_keys
from tests.local_server import JsonHandler, listening

Run = Callable[..., Any]
TOKEN = "hvs.a-token-of-the-test"
HASHES = {"sha2-256": hashes.SHA256(), "sha2-384": hashes.SHA384(), "sha2-512": hashes.SHA512()}


def pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server with the transit engine of Vault: `release` (two versions), `large`, `curved` and `aes`."""
    pytest.importorskip("hvac", reason="hvac is not installed")
    keys: dict[str, Any] = {
        "release": ("ecdsa-p256", [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]),
        "large": ("ecdsa-p521", [ec.generate_private_key(ec.SECP521R1())]),
        "aes": ("aes256-gcm96", []),
    }

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _serve(self, asked: dict[str, Any]) -> None:
            if self.headers.get("X-Vault-Token") != TOKEN:
                self.answer(403, {"errors": ["permission denied"]})
            elif (read := re.fullmatch("/v1/transit/keys/([a-z]+)", self.path)) and read[1] in keys:
                self.answer(200, {"data": self._described(*keys[read[1]])})
            elif (sign := re.fullmatch("/v1/transit/sign/([a-z]+)", self.path)) and sign[1] in keys:
                held, number = keys[sign[1]][1], asked["key_version"]
                assert asked["marshaling_algorithm"] == "asn1"
                signature = held[number - 1].sign(
                    base64.b64decode(asked["input"]), ec.ECDSA(HASHES[asked["hash_algorithm"]])
                )
                self.answer(200, {"data": {"signature": f"vault:v{number}:{base64.b64encode(signature).decode()}"}})
            else:
                self.answer(404, {"errors": []})

        def _described(self, kind: str, held: list[ec.EllipticCurvePrivateKey]) -> dict[str, Any]:
            each = {str(number): {"name": kind, "public_key": pem(key)} for number, key in enumerate(held, 1)}
            return {"type": kind, "latest_version": len(held) or 1, "keys": each or {"1": 1795860597}}

    with listening(Handler) as address:
        monkeypatch.setenv("VAULT_ADDR", address)
        monkeypatch.setenv("VAULT_TOKEN", TOKEN)
        yield keys


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize("uri", ["hv:release", "hv:release/1", "hv:large"], ids=["the newest", "a version", "P-521"])
def test_checkpoint_is_signed_by_vault_and_verified_by_its_public_key(
    checkpoint: Path, run_process: Run, uri: str
) -> None:
    signed = run_process("sign", checkpoint, "--key", uri)
    added = run_process("trust", "add", "vault", uri)
    verified = run_process("verify", "--fast", checkpoint)

    assert (signed.code, added.code, verified.code) == (0, 0, 0), signed.err + added.err + verified.out
    assert "signed by the trusted vault (key " in verified.out


def test_version_that_is_named_signs(vault: dict[str, Any]) -> None:
    older, newer = vault["release"][1]

    assert load_private_key("hv:release/1").public.pem.decode() == pem(older)
    assert load_private_key("hv:release").public.pem.decode() == pem(newer)


@pytest.mark.usefixtures("vault")
@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("hv:none", "cannot be used (None, on get"),
        ("hv:release/3", "there is no version '3', expected one of 1, 2"),
        ("hv:aes", "it is of the kind aes256-gcm96, expected an elliptic-curve key"),
    ],
)
def test_key_that_vault_does_not_have_is_refused(checkpoint: Path, run_process: Run, uri: str, says: str) -> None:
    answer = run_process("sign", checkpoint, "--key", uri)

    assert answer.code == 2
    assert answer.complaint.startswith(f"The key {uri} cannot be used (")
    assert says in answer.complaint
    assert TOKEN not in answer.err


@pytest.mark.usefixtures("vault")
def test_vault_that_does_not_let_in_is_told(checkpoint: Path, run_process: Run) -> None:
    answer = run_process("sign", checkpoint, "--key", "hv:release", VAULT_TOKEN="hvs.another")

    assert "permission denied" in answer.complaint
    assert "hvs.another" not in answer.err


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes a key of some algorithm in a server of Google's KMS and returns its name."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    kms = pytest.importorskip("google.cloud.kms", reason="google-cloud-kms is not installed")
    from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceGrpcTransport

    curves = {"EC_SIGN_P256_SHA256": ec.SECP256R1(), "EC_SIGN_P384_SHA384": ec.SECP384R1()}
    keys: dict[str, tuple[str, ec.EllipticCurvePrivateKey]] = {}

    def make(algorithm: str) -> str:
        name = f"projects/acme/locations/global/keyRings/ring/cryptoKeys/key{len(keys)}/cryptoKeyVersions/1"
        keys[name] = (algorithm, ec.generate_private_key(curves[algorithm]))
        return name

    def public_key(asked: Any, context: Any) -> Any:
        if asked.name not in keys:
            context.abort(grpc.StatusCode.NOT_FOUND, f"CryptoKeyVersion {asked.name} not found.")
        algorithm, key = keys[asked.name]
        kind = kms.CryptoKeyVersion.CryptoKeyVersionAlgorithm[algorithm]
        return kms.PublicKey(name=asked.name, algorithm=kind, public_key={"data": pem(key).encode()})

    def sign(asked: Any, _: Any) -> Any:
        algorithm, key = keys[asked.name]
        kind = hashes.SHA256() if algorithm.endswith("256") else hashes.SHA384()
        digest = asked.digest.sha256 or asked.digest.sha384
        return kms.AsymmetricSignResponse(name=asked.name, signature=key.sign(digest, ec.ECDSA(Prehashed(kind))))

    handlers = {
        "GetPublicKey": grpc.unary_unary_rpc_method_handler(
            public_key, kms.GetPublicKeyRequest.deserialize, kms.PublicKey.serialize
        ),
        "AsymmetricSign": grpc.unary_unary_rpc_method_handler(
            sign, kms.AsymmetricSignRequest.deserialize, kms.AsymmetricSignResponse.serialize
        ),
    }
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("google.cloud.kms.v1.KeyManagementService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    real = kms.KeyManagementServiceClient

    def client() -> Any:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        return real(transport=KeyManagementServiceGrpcTransport(channel=channel))

    monkeypatch.setattr(kms, "KeyManagementServiceClient", client)
    yield make
    server.stop(None)


@pytest.mark.parametrize("algorithm", ["EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384"])
def test_checkpoint_is_signed_by_google_and_verified_by_its_public_key(
    checkpoint: Path, google: Callable[[str], str], algorithm: str
) -> None:
    uri = f"gcpkms:{google(algorithm)}"

    assert manifest.sign(checkpoint, uri).name == "ckpt.safetensors.manifest.2.sig"
    (public,) = load_public_keys(uri)
    assert manifest.verify(checkpoint, key=public, fast=True).passed


@pytest.mark.usefixtures("google")
def test_key_that_google_does_not_have_is_refused() -> None:
    with pytest.raises(KeyFileError, match=r"The key gcpkms:projects/none cannot be used \(404 CryptoKeyVersion"):
        load_private_key("gcpkms:projects/none")


@pytest.mark.parametrize(
    "uri",
    [
        "azurekms:release",
        "azurekms://acme.example/keys/release",
        "azurekms://acme.vault.azure.net/secrets/release",
        "azurekms://acme.vault.azure.net/keys/release/1/2",
        "azurekms://.vault.azure.net/keys/release",
    ],
)
def test_azure_key_that_is_not_named_as_one_is_refused(uri: str) -> None:
    pytest.importorskip("azure.keyvault.keys", reason="azure-keyvault-keys is not installed")

    with pytest.raises(KeyFileError, match=r"is not understood, expected azurekms://VAULT\.vault\.azure\.net/keys/KEY"):
        load_private_key(uri)


@pytest.mark.parametrize(
    ("uri", "library"),
    [
        ("hv:release", "hvac"),
        ("gcpkms:projects/acme", "google.cloud"),
        ("azurekms://acme.vault.azure.net/keys/release", "azure.identity"),
    ],
)
def test_service_whose_client_is_missing_says_what_to_install(tmp_path: Path, uri: str, library: str) -> None:
    program = (
        "import sys; sys.modules[sys.argv[2]] = None\n"
        "from manifest.signing import load_private_key\n"
        "load_private_key(sys.argv[1])\n"
    )

    words = [sys.executable, "-c", program, uri, library]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)

    assert f"A key of the scheme `{uri.partition(':')[0]}:` needs further libraries: `pip install " in done.stderr
    assert "[signers]" in done.stderr

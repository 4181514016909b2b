"""Keys that never leave their place: in a token of SoftHSM2 by PKCS #11, and in AWS KMS, which moto's server plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

import manifest
from manifest.errors import KeyFileError
from manifest.signing import load_private_key, load_public_keys
from tests.signing.terminal import typed

LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/opt/homebrew/lib/softhsm/libsofthsm2.so")
PIN = "493817"

_MAKE_KEYS = """
import os, sys
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(os.environ["PYKCS11LIB"]).get_token(token_label="release")
with token.open(rw=True, user_pin=sys.argv[1]) as session:
    for number, curve in ((1, "secp521r1"), (2, "secp256r1"), (3, "secp384r1")):
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}, local=True
        )
        parameters.generate_keypair(store=True, id=bytes([number]), label=curve)
"""


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a token with a key on each curve: 1 on P-521, 2 on P-256, 3 on P-384."""
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None or shutil.which("softhsm2-util") is None:
        pytest.skip("SoftHSM2 is not installed")
    place = tmp_path_factory.mktemp("token")
    (place / "tokens").mkdir()
    (place / "softhsm2.conf").write_text(f"directories.tokendir = {place / 'tokens'}\nobjectstore.backend = file\n")
    environment = {"SOFTHSM2_CONF": str(place / "softhsm2.conf"), "PYKCS11LIB": library}
    everything = {**os.environ, **environment}
    made = ["softhsm2-util", "--init-token", "--free", "--label", "release", "--pin", PIN, "--so-pin", "99999999"]
    subprocess.run(made, env=everything, check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", _MAKE_KEYS, PIN], env=everything, check=True)
    return environment


@pytest.mark.parametrize("uri", ["hsm:", "hsm:2?label=release", "hsm:3"], ids=["the only token", "its label", "P-384"])
def test_checkpoint_is_signed_by_a_token_and_verified_by_its_public_key(
    checkpoint: Path, token: dict[str, str], run_process: Callable[..., Any], uri: str
) -> None:
    signed = run_process("sign", checkpoint, "--key", uri, **token, MANIFEST_PASSPHRASE=PIN)
    added = run_process("trust", "add", "token", uri, **token)
    verified = run_process("verify", "--fast", checkpoint)

    assert (signed.code, added.code, verified.code) == (0, 0, 0), signed.err + added.err + verified.out
    assert signed.out.endswith("ckpt.safetensors.manifest.2.sig\n")
    assert "signed by the trusted token (key " in verified.out


@pytest.mark.parametrize(
    ("uri", "pin", "says"),
    [
        ("hsm:2?label=other", PIN, "No PKCS#11 token found for label other"),
        ("hsm:9", PIN, "could not find ECDSA key on the PKCS#11 token"),
        ("hsm:1", PIN, "is not a supported EC curve"),
        ("hsm:two", PIN, "the identifier is 'two', expected a number, as in hsm:2?label=release"),
        ("hsm:2", "000000", "PinIncorrect"),
        ("hsm:2", None, "the pin of hsm:2 is wanted and was not given; give it as the passphrase"),
    ],
)
def test_token_that_cannot_be_used_is_refused_in_one_sentence(
    checkpoint: Path, token: dict[str, str], run_process: Callable[..., Any], uri: str, pin: str | None, says: str
) -> None:
    secret = {} if pin is None else {"MANIFEST_PASSPHRASE": pin}
    answer = run_process("sign", checkpoint, "--key", uri, **token, **secret)

    assert answer.complaint.startswith(f"The key {uri} cannot be used (")
    assert says in answer.complaint
    assert pin is None or pin not in answer.err
    assert not Path("ckpt.safetensors.manifest.2.sig").exists()


def test_pin_of_a_token_is_asked_for_at_a_terminal(
    checkpoint: Path, token: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in token.items():
        monkeypatch.setenv(name, value)

    ended, shown = typed("sign", checkpoint.name, "--key", "hsm:2", answers=(PIN,))

    assert ended == 0, shown
    assert shown.startswith("PIN of hsm:2: ")
    assert PIN not in shown


def test_token_without_its_library_is_refused(checkpoint: Path, run_process: Callable[..., Any]) -> None:
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed")

    answer = run_process("sign", checkpoint, "--key", "hsm:", PYKCS11LIB="")

    assert "PYKCS11LIB environment variable must be set" in answer.complaint


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes a key of some kind in AWS KMS and returns its identifier."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server_of = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer
    server = server_of(port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in (
        ("ACCESS_KEY_ID", "testing"),
        ("SECRET_ACCESS_KEY", "testing"),
        ("DEFAULT_REGION", "eu-west-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)

    def make(kind: str) -> str:
        made = boto3.client("kms").create_key(KeyUsage="SIGN_VERIFY", KeySpec=kind)
        return str(made["KeyMetadata"]["KeyId"])

    yield make
    server.stop()


@pytest.fixture
def digests_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server sign a digest as AWS does; moto 5.2 says of itself that it does not, and hashes it once more."""
    from moto.kms.utils import ECDSAPrivateKey

    def sign(self: Any, message: bytes, signing_algorithm: str) -> bytes:
        kind = {"ECDSA_SHA_256": hashes.SHA256(), "ECDSA_SHA_384": hashes.SHA384()}[signing_algorithm]
        signature: bytes = self.private_key.sign(message, ec.ECDSA(Prehashed(kind)))
        return signature

    monkeypatch.setattr(ECDSAPrivateKey, "sign", sign)


@pytest.mark.usefixtures("digests_signed")
@pytest.mark.parametrize("kind", ["ECC_NIST_P256", "ECC_NIST_P384"])
def test_checkpoint_is_signed_by_aws_kms_and_verified_by_its_public_key(
    checkpoint: Path, kms: Callable[[str], str], kind: str
) -> None:
    uri = f"awskms:{kms(kind)}"

    signature = manifest.sign(checkpoint, uri)

    assert signature.name == "ckpt.safetensors.manifest.2.sig"
    (public,) = load_public_keys(uri)
    assert manifest.verify(checkpoint, key=public, fast=True).passed


def test_service_that_gives_back_no_signature_of_what_was_asked_is_refused(
    checkpoint: Path, kms: Callable[[str], str]
) -> None:
    """moto's server as it is hashes a digest once more, which no reader would accept."""
    with pytest.raises(KeyFileError, match="gave back is no signature by its own key; check the key there"):
        manifest.sign(checkpoint, f"awskms:{kms('ECC_NIST_P256')}")
    assert not Path("ckpt.safetensors.manifest.2.sig").exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [("RSA_2048", "holds a key of the kind RSA; expected an elliptic-curve key"), ("ECC_NIST_P521", "cannot be used")],
)
def test_key_of_another_kind_in_aws_kms_is_refused(kms: Callable[[str], str], kind: str, says: str) -> None:
    with pytest.raises(KeyFileError, match=says):
        load_private_key(f"awskms:{kms(kind)}")


@pytest.mark.usefixtures("kms")
def test_key_that_is_not_in_aws_kms_is_refused() -> None:
    with pytest.raises(KeyFileError, match=r"The key awskms:alias/none cannot be used \(.*NotFoundException"):
        load_private_key("awskms:alias/none")


@pytest.mark.parametrize("scheme", ["gnupg", "tkey", "file2"])
def test_scheme_that_is_not_supported_is_refused_with_those_that_are(scheme: str) -> None:
    with pytest.raises(KeyFileError, match=rf"of the scheme `{scheme}:`, which is not supported; .*signers.*`hsm:`"):
        load_private_key(f"{scheme}:release")


@pytest.mark.parametrize("missing", ["securesystemslib", "boto3"])
def test_scheme_whose_libraries_are_missing_says_what_to_install(tmp_path: Path, missing: str) -> None:
    program = (
        "import sys; sys.modules[sys.argv[1]] = None\n"
        "from manifest.signing import load_private_key\n"
        "load_private_key('awskms:release')\n"
    )

    done = subprocess.run([sys.executable, "-c", program, missing], capture_output=True, text=True, cwd=tmp_path)

    assert "A key of the scheme `awskms:` needs further libraries: `pip install " in done.stderr
    assert "[signers]" in done.stderr

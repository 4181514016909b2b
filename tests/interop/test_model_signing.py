"""Our signatures under the reference implementation of OpenSSF Model Signing, and its signatures under ours.

The program `model_signing` runs as its users run it, in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manifest.digests import file_sha256
from manifest.errors import SignatureError
from manifest.signing import (
    generate_keys,
    load_private_key,
    load_public_key,
    read_bundle,
    sign_resources,
    verify_bundle,
)

pytest.importorskip("model_signing")

SIGNED = ("ckpt.pt", "ckpt.pt.manifest.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a checkpoint, its manifest, and a file that nobody signs."""
    directory = tmp_path / "release"
    directory.mkdir()
    (directory / "ckpt.pt").write_bytes(bytes(range(256)) * 500)
    (directory / "ckpt.pt.manifest.json").write_text('{"schema": "manifest/v1"}\n')
    (directory / "notes.txt").write_text("unsigned\n")
    return directory


def _sign(model: Path, private: Path) -> Path:
    bundle = sign_resources(model.name, {name: file_sha256(model / name) for name in SIGNED}, load_private_key(private))
    signature = model / "ckpt.pt.manifest.sig"
    signature.write_bytes(bundle)
    return signature


def _model_signing(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _reference_verify(model: Path, signature: Path, public: Path) -> subprocess.CompletedProcess[str]:
    options = ["--signature", signature, "--public_key", public, "--ignore_unsigned_files"]
    return _model_signing("verify", "key", model, *options)


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_our_signature_when_files_are_intact_then_the_reference_accepts(
    tmp_path: Path, model: Path, curve: str
) -> None:
    private, public = generate_keys(tmp_path / "release-key", curve=curve)

    verdict = _reference_verify(model, _sign(model, private), public)

    assert verdict.returncode == 0, verdict.stderr
    assert "Verification succeeded" in verdict.stdout + verdict.stderr


@pytest.mark.parametrize("tampered", SIGNED)
def test_our_signature_when_a_file_is_changed_then_the_reference_refuses(
    tmp_path: Path, model: Path, tampered: str
) -> None:
    private, public = generate_keys(tmp_path / "release-key")
    signature = _sign(model, private)
    data = bytearray((model / tampered).read_bytes())
    data[10] ^= 1
    (model / tampered).write_bytes(data)

    verdict = _reference_verify(model, signature, public)

    assert verdict.returncode != 0
    assert "Verification failed" in verdict.stdout + verdict.stderr


def test_our_signature_when_the_key_is_another_then_the_reference_refuses(tmp_path: Path, model: Path) -> None:
    private, _ = generate_keys(tmp_path / "release-key")
    _, public = generate_keys(tmp_path / "other-key")

    assert _reference_verify(model, _sign(model, private), public).returncode != 0


@pytest.mark.parametrize("curve", ["p256", "p384", "p521"])
def test_reference_signature_when_files_are_intact_then_we_accept(tmp_path: Path, model: Path, curve: str) -> None:
    private, public = generate_keys(tmp_path / "release-key", curve=curve)
    (model / "shards").mkdir()
    (model / "shards" / "model-00001.safetensors").write_bytes(b"weights")
    made = _model_signing("sign", "key", model, "--private_key", private, "--signature", model / "model.sig")
    assert made.returncode == 0, made.stderr

    statement = verify_bundle((model / "model.sig").read_bytes(), [load_public_key(public)])

    names = [*SIGNED, "notes.txt", "shards/model-00001.safetensors"]
    assert statement.resources == {name: file_sha256(model / name) for name in names}
    assert statement.model_name == "release"
    assert statement.hint == load_public_key(public).hint


def test_reference_signature_when_the_key_is_another_then_we_refuse(tmp_path: Path, model: Path) -> None:
    private, _ = generate_keys(tmp_path / "release-key")
    _, public = generate_keys(tmp_path / "other-key")
    made = _model_signing("sign", "key", model, "--private_key", private, "--signature", model / "model.sig")
    assert made.returncode == 0, made.stderr

    data = (model / "model.sig").read_bytes()

    assert read_bundle(data).hint == load_private_key(private).public.hint
    with pytest.raises(SignatureError, match="holds under none of the keys given"):
        verify_bundle(data, [load_public_key(public)])

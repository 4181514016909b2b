"""Keyless signatures between `model_signing` and this tool, both ways, on a small instance of Sigstore."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.signing.keyless import TOKEN_VARIABLE
from tests.signing.sigstore_instance import IDENTITY, ISSUER, Instance, served, token

pytest.importorskip("model_signing")


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that describes an instance which is there while the test runs."""
    monkeypatch.setenv(TOKEN_VARIABLE, token())
    with served(Instance()) as instance:
        yield instance.write(tmp_path / "acme.json")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A distributed checkpoint with its manifest, which nobody has signed."""
    torch.manual_seed(0)
    manifest.save_distributed(nn.Linear(4, 4), tmp_path / "shards", golden=False, family="opaque")
    return tmp_path / "shards"


def model_signing(verb: str, place: Path, described: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "model_signing", verb, "sigstore", place, "--trust_config", described, *options]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


def accepts(place: Path, described: Path, signature: Path, identity: str = IDENTITY) -> bool:
    whom = ("--identity", identity, "--identity_provider", ISSUER, "--ignore_unsigned_files")
    return model_signing("verify", place, described, "--signature", signature, *whom).returncode == 0


def test_model_signing_accepts_a_keyless_signature_of_shards(shards: Path, described: Path) -> None:
    signature = manifest.sign(shards, f"sigstore:?instance={described}")

    assert accepts(shards, described, signature)
    assert not accepts(shards, described, signature, "eve@acme.example")
    shard = next(shards.glob("__*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert not accepts(shards, described, signature)


def test_folder_that_model_signing_signed_keyless_is_verified(shards: Path, described: Path) -> None:
    options = ("--identity_token", token(), "--signature", shards / "model.sig")
    made = model_signing("sign", shards, described, *options)
    assert made.returncode == 0, made.stderr
    uri = f"sigstore:{IDENTITY}?issuer={ISSUER}&instance={described}"

    assert manifest.verify(shards, key=uri, fast=True).passed
    assert not manifest.verify(shards, key=uri.replace("release@", "eve@"), fast=True).passed
    shard = next(shards.glob("__*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert not manifest.verify(shards, key=uri, fast=True).passed

"""Checkpoints in shards and with several signatures, between `model_signing` and this tool, both ways."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.schema.report import Report, Severity
from manifest.signing import generate_keys

pytest.importorskip("model_signing")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A distributed checkpoint with its manifest, which nobody has signed, and the keys of two people beside it."""
    for name in ("alice", "bob"):
        generate_keys(tmp_path / name)
    torch.manual_seed(0)
    manifest.save_distributed(nn.Linear(4, 4), tmp_path / "shards", golden=False, family="opaque")
    return tmp_path / "shards"


def model_signing(verb: str, place: Path, *options: str | Path) -> int:
    words = [sys.executable, "-m", "model_signing", verb, "key", place, *options]
    return subprocess.run(list(map(str, words)), capture_output=True, check=False).returncode


def accepts(place: Path, signature: Path, public: Path) -> bool:
    options = ("--signature", signature, "--public_key", public, "--ignore_unsigned_files")
    return model_signing("verify", place, *options) == 0


def signed_by_model_signing(shards: Path, *options: str | Path) -> None:
    key = shards.parent / "alice.key"
    assert model_signing("sign", shards, "--private_key", key, "--signature", shards / "model.sig", *options) == 0


def verified(shards: Path) -> tuple[Report, dict[str, Severity | None]]:
    report = manifest.verify(shards, key=shards.parent / "alice.pub", fast=True)
    return report, {item.rule: item.severity for item in report.rungs[0].findings}


def test_model_signing_accepts_each_signature_of_shards(shards: Path) -> None:
    places = [manifest.sign(shards, shards.parent / f"{name}.key") for name in ("alice", "bob")]

    assert [place.name for place in places] == ["model.sig", "model.2.sig"]
    for name, place in zip(("alice", "bob"), places, strict=True):
        assert accepts(shards, place, shards.parent / f"{name}.pub")
    assert not accepts(shards, places[1], shards.parent / "alice.pub")


def test_model_signing_accepts_a_cosignature_of_a_file(shards: Path) -> None:
    place = shards.parent / "file"
    place.mkdir()
    torch.manual_seed(0)
    checkpoint = place / "ckpt.pt"
    manifest.save(nn.Linear(4, 4), checkpoint, key=shards.parent / "alice.key", golden=False, family="opaque")

    cosignature = manifest.sign(checkpoint, shards.parent / "bob.key")

    assert accepts(place, cosignature, shards.parent / "bob.pub")


def test_model_signing_refuses_shards_of_which_one_changed(shards: Path) -> None:
    signature = manifest.sign(shards, shards.parent / "alice.key")
    shard = next(shards.glob("__*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")

    assert not accepts(shards, signature, shards.parent / "alice.pub")


def test_folder_that_model_signing_signed_is_verified(shards: Path) -> None:
    (shards / "README.md").write_text("Trained on digits.\n")
    signed_by_model_signing(shards)

    report, found = verified(shards)

    assert report.passed
    assert found == {}
    assert report.rungs[0].reason.startswith("signed by the trusted key ")


def test_folder_that_model_signing_signed_is_cosigned_by_us_and_both_accept(shards: Path) -> None:
    signed_by_model_signing(shards)
    record = (shards / "manifest.json").read_bytes()

    cosignature = manifest.sign(shards, shards.parent / "bob.key")

    assert cosignature.name == "model.2.sig"
    assert (shards / "manifest.json").read_bytes() == record
    assert accepts(shards, cosignature, shards.parent / "bob.pub")
    assert accepts(shards, shards / "model.sig", shards.parent / "alice.pub")
    assert all(
        manifest.verify(shards, key=shards.parent / f"{name}.pub", fast=True).passed for name in ("alice", "bob")
    )


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda shards: (shards / "README.md").write_text("Trained on cats.\n"), "T006"),
        (lambda shards: (shards / "README.md").unlink(), "T006"),
        (
            lambda shards: (shards / "manifest.json").write_bytes((shards / "manifest.json").read_bytes() + b"\n"),
            "T006",
        ),
        (lambda shards: shutil.copy(next(shards.glob("__*")), shards / "__7_0.distcp"), "T011"),
    ],
    ids=["a signed file changed", "a signed file gone", "the manifest changed", "a shard more"],
)
def test_folder_that_model_signing_signed_is_found_changed(
    shards: Path, change: Callable[[Path], object], rule: str
) -> None:
    (shards / "README.md").write_text("Trained on digits.\n")
    signed_by_model_signing(shards)
    change(shards)

    assert rule in verified(shards)[1]


def test_folder_that_model_signing_signed_without_its_manifest_is_a_finding(shards: Path) -> None:
    signed_by_model_signing(shards, "--ignore-paths", shards / "manifest.json")

    report, found = verified(shards)

    assert not report.passed
    assert found == {"T010": Severity.ERROR}
    assert "and not manifest.json." in report.rungs[0].findings[0].message

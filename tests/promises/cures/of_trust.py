"""Cures of findings on whose signature counts, and on which checkpoint is meant; each is called as its rule is."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.schema.report import Report
from manifest.signing import load_private_key, sign_resources
from manifest.signing.keyless import TOKEN_VARIABLE
from manifest.storage.sidecars import Sidecars
from tests.promises.cures.following import Bench, Case
from tests.signing.sigstore_instance import IDENTITY, ISSUER, Instance, served, token

TODAY = datetime.now(UTC).date()


def _trust(bench: Bench, *options: object, other: bool = True) -> Path:
    """A trust file with the signer `release`, to whom the options belong, and the signer `other`."""
    path = bench.folder / "trust.yaml"
    path.unlink(missing_ok=True)
    bench.must("trust", "add", "release", bench.folder / "release.pub", "--trust", path, *options)
    if other:
        bench.must("trust", "add", "other", bench.folder / "other.pub", "--trust", path)
    return path


def _verified(path: Path, trust: Path, **options: Any) -> Report:
    return manifest.verify(path, fast=True, trust=trust, **options)


def manifest_not_signed(bench: Bench) -> Case:
    path = bench.signed()
    key = load_private_key(bench.folder / "release.key")
    record = json.loads(Sidecars(path).manifest.read_text())
    digest = record["checkpoint"]["files"][0]["sha256"]
    Sidecars(path).signature.write_bytes(sign_resources("model", {"ckpt.pt": digest}, key))
    advice = yield manifest.verify(path, fast=True, key=bench.folder / "release.pub")
    advice.runs("sign", {"CKPT": path})
    yield manifest.verify(path, fast=True, key=bench.folder / "release.pub")


def files_not_signed(bench: Bench) -> Case:
    place = bench.folder / "shards"
    bench.signed()
    manifest.save_distributed(
        manifest.load(bench.folder / "ckpt.pt"), place, key=bench.folder / "release.key", golden=False
    )
    (place / "README.md").write_text("Nobody signed this.\n")
    advice = yield manifest.verify(place, fast=True, key=bench.folder / "release.pub")
    advice.says("Move them elsewhere")
    (place / "README.md").rename(bench.folder / "README.md")
    yield manifest.verify(place, fast=True, key=bench.folder / "release.pub")


def signer_not_valid_today(bench: Bench) -> Case:
    path = bench.signed()
    trust = _trust(bench, "--until", TODAY - timedelta(days=1))
    advice = yield _verified(path, trust)
    advice.says("change the period in the trust file")
    trust.write_text(trust.read_text().replace(str(TODAY - timedelta(days=1)), str(TODAY)))
    yield _verified(path, trust)
    trust = _trust(bench, "--until", TODAY - timedelta(days=1))
    advice.says("Have the checkpoint signed by somebody whose key is valid today")
    bench.must("sign", path, "--key", bench.folder / "other.key")
    yield _verified(path, trust)


def signer_removed(bench: Bench) -> Case:
    path = bench.signed()
    trust = _trust(bench)
    bench.must("trust", "remove", "release", "--trust", trust)
    advice = yield _verified(path, trust)
    advice.runs("sign", {"CKPT": path})
    yield _verified(path, trust)


def signer_not_for_this(bench: Bench) -> Case:
    path = bench.signed()
    trust = _trust(bench, "--only", "heads/*.pt")
    advice = yield _verified(path, trust)
    advice.says("add it to the signer's `checkpoints` in the trust file")
    trust.write_text(trust.read_text().replace("- heads/*.pt", "- heads/*.pt\n  - ckpt.pt"))
    yield _verified(path, trust)
    trust = _trust(bench, "--only", "heads/*.pt")
    advice.says("Have it signed by somebody who may")
    bench.must("sign", path, "--key", bench.folder / "other.key")
    yield _verified(path, trust)


def too_few_signers(bench: Bench) -> Case:
    path = bench.signed()
    trust = _trust(bench, "--threshold", 2)
    advice = yield _verified(path, trust)
    advice.runs("sign", {"CKPT": path})
    yield _verified(path, trust)


def signature_not_counted(bench: Bench) -> Case:
    path = bench.signed()
    trust = _trust(bench, other=False)
    bench.must("sign", path, "--key", bench.folder / "other.key")
    advice = yield _verified(path, trust)
    advice.says("Remove the signature")
    Sidecars(path).cosignature(2).unlink()
    yield _verified(path, trust)


def keyless_unproven(bench: Bench) -> Case:
    path = bench.signed()
    (bench.folder / "acme").mkdir()
    trust = _trust(bench, other=False)
    with served(Instance()) as instance, pytest.MonkeyPatch.context() as patch:
        described = instance.write(bench.folder / "acme" / "acme.json")
        patch.setenv(TOKEN_VARIABLE, token())
        bench.must("sign", path, "--key", f"sigstore:?instance={described}")
        bench.must("trust", "remove", "release", "--trust", trust)
        bench.must("trust", "add", "acme", f"sigstore:{IDENTITY}?issuer={ISSUER}", "--trust", trust)
    advice = yield _verified(path, trust)
    advice.says("name the instance that vouches for the signer: `instance` in the trust file")
    trust.write_text(trust.read_text().replace(f"issuer: {ISSUER}", f"issuer: {ISSUER}\n  instance: acme/acme.json"))
    yield _verified(path, trust)
    bundle = Sidecars(path).cosignature(2)
    genuine = bundle.read_bytes()
    bundle.write_bytes(genuine.replace(b'"integratedTime":"1', b'"integratedTime":"2'))
    assert not _verified(path, trust).passed
    advice.says("Get the signature again from its source")
    bundle.write_bytes(genuine)
    yield _verified(path, trust)


def older_than_demanded(bench: Bench) -> Case:
    path = bench.signed()
    old = bench.folder / "old"
    old.mkdir()
    record = json.loads(Sidecars(path).manifest.read_text()) | {"created": "2025-06-30T12:00:00Z"}
    for file in (path, Sidecars(path).signature):
        shutil.copy(file, old)
    Sidecars(old / path.name).manifest.write_text(json.dumps(record))
    advice = yield manifest.verify(old / path.name, fast=True, not_before="2025-07-01")
    advice.says("Get the checkpoint that is meant")
    yield manifest.verify(path, fast=True, not_before="2025-07-01")
    advice.says("give an earlier day with `--not-before`")
    yield manifest.verify(old / path.name, fast=True, not_before="2025-06-30")


def other_weights_than_expected(bench: Bench) -> Case:
    path = bench.signed()
    advice = yield manifest.verify(path, fast=True, expect_weights="blake3:" + "0" * 64)
    shown = bench.run(*advice.command("show", {"CKPT": path}))
    expected = json.loads(shown.out)["weights"]["digest"]
    yield manifest.verify(path, fast=True, expect_weights=expected)

"""Each way of tampering has its own finding, and an exit code that a release step can act on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.digests import file_digests


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.manifest.{what}")


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(beside(path, "json").read_bytes())
    change(content)
    beside(path, "json").write_text(json.dumps(content, indent=2))


def bit_in_a_tensor(path: Path) -> None:
    with open_checkpoint(path) as stored:
        position = stored.tensors["visual.proj"].offset
    flip(path, position)


def bit_in_the_pickle(path: Path) -> None:
    flip(path, path.read_bytes().index(b"visual.proj"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def lengthened(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def swapped(path: Path) -> None:
    torch.manual_seed(1)
    torch.save(open_clip.create_model("digits-clip").state_dict(), path)


def other_file(path: Path) -> None:
    """One that lies beside the checkpoint and is no part of it."""
    script = path.with_name("torch.py")
    script.write_text("")
    blake3, sha256 = file_digests(script)
    record = {"path": script.name, "size": 0, "blake3": blake3, "sha256": sha256}
    edit_manifest(path, lambda content: content["checkpoint"]["files"].append(record))


def gelu(path: Path) -> None:
    edit_manifest(path, lambda content: content["architecture"]["config"].update(quick_gelu=False))


def other_mean(path: Path) -> None:
    edit_manifest(path, lambda content: content["architecture"]["preprocess"].update(mean=[0.5, 0.5, 0.5]))


def other_digest(path: Path) -> None:
    edit_manifest(path, lambda content: content["weights"]["tensors"][0].update(digest="blake3:" + "0" * 64))


def no_signature(path: Path) -> None:
    beside(path, "sig").unlink()


def broken_signature(path: Path) -> None:
    text = beside(path, "sig").read_text()
    signature = json.loads(text)["dsseEnvelope"]["signatures"][0]["sig"]
    other = signature[:20] + ("A" if signature[20] != "A" else "B") + signature[21:]
    beside(path, "sig").write_text(text.replace(signature, other))


def garbled_signature(path: Path) -> None:
    beside(path, "sig").write_bytes(b"{ not a bundle")


TAMPERINGS = [
    (bit_in_a_tensor, "integrity", {"I002"}),
    (bit_in_the_pickle, "integrity", {"I003", "I001", "I002", "I004"}),
    (truncated, "integrity", {"I003"}),
    (lengthened, "integrity", {"I003"}),
    (swapped, "integrity", {"I004"}),
    (gelu, "trust", {"T006"}),
    (other_mean, "trust", {"T006"}),
    (other_digest, "format", {"F006"}),
    (other_file, "format", {"F006"}),
    (no_signature, "trust", {"T004"}),
    (broken_signature, "trust", {"T003"}),
    (garbled_signature, "trust", {"T005"}),
]


@pytest.mark.parametrize(("tamper", "rung", "rules"), TAMPERINGS, ids=lambda value: getattr(value, "__name__", None))
def test_verify_of_a_tampered_checkpoint_fails_at_its_rung(
    tamper: Callable[[Path], None], rung: str, rules: set[str], signed: Path, run: Callable[..., Any]
) -> None:
    tamper(signed)
    answer = run("verify", "ckpt.pt", "--fast", "--key", "release.pub", "--format", "json")
    report = json.loads(answer.out)
    found = {item["rule"] for part in report["rungs"] if part["name"] == rung for item in part["findings"]}
    assert answer.code == 1
    assert found & rules


def test_verify_of_an_untouched_checkpoint_passes_every_rung(signed: Path, run: Callable[..., Any]) -> None:
    answer = run("verify", signed.name, "--key", "release.pub", "--format", "json")
    assert answer.code == 0
    assert {rung["outcome"] for rung in json.loads(answer.out)["rungs"]} == {"pass"}


def test_bit_in_a_tensor_is_reported_by_name(signed: Path) -> None:
    bit_in_a_tensor(signed)
    finding = next(item for item in manifest.verify(signed, fast=True).findings() if item.rule == "I002")
    assert finding.where == "vision_projection"
    assert finding.evidence["tensors"] == ["visual.proj"]


def test_verify_by_another_key_fails(signed: Path, run: Callable[..., Any]) -> None:
    answer = run("verify", signed.name, "--fast", "--key", "other.pub")
    assert answer.code == 1
    assert "T003 signature-invalid" in answer.out


def test_verify_without_a_manifest_cannot_check(signed: Path, run: Callable[..., Any]) -> None:
    beside(signed, "json").unlink()
    answer = run("verify", signed.name)
    assert answer.code == 2
    assert "manifest create" in answer.err


def test_verify_of_a_garbled_manifest_cannot_check(signed: Path, run: Callable[..., Any]) -> None:
    flip(beside(signed, "json"), 0)
    answer = run("verify", signed.name)
    assert answer.code == 2
    assert "is not JSON in UTF-8" in answer.err


def test_verify_under_the_sidecars_of_another_checkpoint_fails(signed: Path, digits_model: Any) -> None:
    with torch.no_grad():
        digits_model.logit_scale.add_(0.5)
    manifest.save(digits_model, signed.with_name("next.pt"), golden=False)
    shutil.copy(beside(signed.with_name("next.pt"), "json"), beside(signed, "json"))
    rules = {item.rule for item in manifest.verify(signed, fast=True).findings()}
    assert {"T006", "I002"} <= rules


def test_golden_outputs_are_not_run_on_changed_weights(signed: Path) -> None:
    bit_in_a_tensor(signed)
    golden = next(rung for rung in manifest.verify(signed).rungs if rung.name == "golden")
    assert golden.outcome == "skip"


def test_load_of_a_tampered_checkpoint_raises_with_the_report(signed: Path) -> None:
    bit_in_a_tensor(signed)
    with pytest.raises(manifest.VerificationError, match="I002 tensors-changed") as caught:
        manifest.load(signed)
    assert caught.value.exit_code == 1
    assert not caught.value.report.passed


def test_other_preprocessing_in_an_unsigned_manifest_is_found_by_the_probe(signed: Path) -> None:
    no_signature(signed)
    edit_manifest(signed, lambda content: content.pop("signer"))
    other_mean(signed)
    report = manifest.verify(signed)
    assert [rung.outcome for rung in report.rungs if rung.name == "golden"] == ["fail"]

"""Several signatures beside one checkpoint: what is added, replaced, kept, and what goes with a new save."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import StorageError
from manifest.signing import generate_keys, load_public_key, read_bundle
from manifest.storage.sidecars import MOST_SIGNATURES, Sidecars


def signatures(checkpoint: Path) -> dict[str, str]:
    """The files of signatures, and of whose key each is."""
    hints = {load_public_key(f"{name}.pub").hint: name for name in ("alice", "bob", "carol", "eve")}
    return {path.name: hints[read_bundle(path.read_bytes()).hint] for path in Sidecars(checkpoint).signatures}


def sidecars(checkpoint: Path) -> list[str]:
    return sorted(path.name for path in checkpoint.parent.glob("ckpt.safetensors?*"))


def test_signature_of_another_key_is_added_and_the_manifest_stays_as_it_is(checkpoint: Path) -> None:
    record = Sidecars(checkpoint).manifest.read_bytes()
    first = Sidecars(checkpoint).signature.read_bytes()

    places = [manifest.sign(checkpoint, f"{name}.key").name for name in ("bob", "carol")]

    assert places == ["ckpt.safetensors.manifest.2.sig", "ckpt.safetensors.manifest.3.sig"]
    assert list(signatures(checkpoint).values()) == ["alice", "bob", "carol"]
    assert Sidecars(checkpoint).manifest.read_bytes() == record
    assert Sidecars(checkpoint).signature.read_bytes() == first


def test_signature_of_the_same_key_is_replaced_in_its_place(checkpoint: Path) -> None:
    record = Sidecars(checkpoint).manifest.read_bytes()
    manifest.sign(checkpoint, "bob.key")
    before = [path.read_bytes() for path in Sidecars(checkpoint).signatures]

    places = [manifest.sign(checkpoint, f"{name}.key").name for name in ("alice", "bob")]

    assert places == ["ckpt.safetensors.manifest.sig", "ckpt.safetensors.manifest.2.sig"]
    assert list(signatures(checkpoint).values()) == ["alice", "bob"]
    assert all(new.read_bytes() != old for new, old in zip(Sidecars(checkpoint).signatures, before, strict=True))
    assert Sidecars(checkpoint).manifest.read_bytes() == record


@pytest.mark.parametrize("name", ["alice", "bob", "carol"])
def test_each_signature_is_found_by_the_key_that_made_it(checkpoint: Path, name: str) -> None:
    for other in ("bob", "carol"):
        manifest.sign(checkpoint, f"{other}.key")

    assert manifest.verify(checkpoint, key=f"{name}.pub", fast=True).passed
    assert not manifest.verify(checkpoint, key="eve.pub", fast=True).passed


def test_first_signature_may_be_removed_and_its_place_is_taken_again(checkpoint: Path) -> None:
    manifest.sign(checkpoint, "bob.key")
    Sidecars(checkpoint).signature.unlink()

    left = manifest.verify(checkpoint, key="bob.pub", fast=True)
    manifest.sign(checkpoint, "carol.key")

    assert left.passed
    assert signatures(checkpoint) == {
        "ckpt.safetensors.manifest.sig": "carol",
        "ckpt.safetensors.manifest.2.sig": "bob",
    }


def test_signature_of_another_manifest_gives_up_its_place(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    torch.manual_seed(1)
    other = tmp_path / "other" / "ckpt.safetensors"
    manifest.save(nn.Linear(2, 2), other, key="carol.key", golden=False, family="opaque")
    shutil.copy(Sidecars(other).signature, Sidecars(checkpoint).cosignature(2))

    manifest.sign(checkpoint, "bob.key")

    assert list(signatures(checkpoint).values()) == ["alice", "bob"]


def test_manifest_that_no_signature_covers_names_the_key_that_signs_it(checkpoint: Path) -> None:
    for path in Sidecars(checkpoint).signatures:
        path.unlink()

    manifest.sign(checkpoint, "bob.key")

    assert signatures(checkpoint) == {"ckpt.safetensors.manifest.sig": "bob"}
    assert manifest.verify(checkpoint, key="bob.pub", fast=True).passed


def test_new_save_takes_all_signatures_of_the_old_one_away(checkpoint: Path) -> None:
    for name in ("bob", "carol"):
        manifest.sign(checkpoint, f"{name}.key")
    torch.manual_seed(1)

    manifest.save(nn.Linear(2, 2), checkpoint, key="bob.key", golden=False, family="opaque")

    assert sidecars(checkpoint) == ["ckpt.safetensors.manifest.json", "ckpt.safetensors.manifest.sig"]
    assert manifest.verify(checkpoint, key="bob.pub", fast=True).passed


def test_removing_the_manifest_takes_all_signatures_away(checkpoint: Path) -> None:
    for name in ("bob", "carol"):
        manifest.sign(checkpoint, f"{name}.key")

    manifest.remove_manifest(checkpoint)

    assert sidecars(checkpoint) == []


def test_checkpoint_is_moved_with_all_that_begins_with_its_name(checkpoint: Path, tmp_path: Path) -> None:
    manifest.sign(checkpoint, "bob.key")
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("ckpt.safetensors*"):
        path.rename(tmp_path / "elsewhere" / path.name.replace("ckpt", "best"))

    assert manifest.verify(tmp_path / "elsewhere" / "best.safetensors", key="bob.pub", fast=True).passed


def test_damaged_cosignature_is_told_whoever_is_trusted(checkpoint: Path) -> None:
    cosignature = manifest.sign(checkpoint, "bob.key")
    data = bytearray(cosignature.read_bytes())
    data[-40] ^= 1
    cosignature.write_bytes(data)

    for options in ({"key": "alice.pub"}, {"key": "bob.pub"}, {}):
        report = manifest.verify(checkpoint, fast=True, **options)
        assert report.rungs[0].findings, options


def test_more_signatures_than_there_is_room_for_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for number in range(MOST_SIGNATURES - 1):
        manifest.sign(checkpoint, generate_keys(tmp_path / f"key{number}")[0])

    with pytest.raises(StorageError, match=f"has {MOST_SIGNATURES} signatures, expected fewer; remove one"):
        manifest.sign(checkpoint, "bob.key")


def test_distributed_checkpoint_is_cosigned_inside_its_folder(tmp_path: Path, folder: Path) -> None:
    del folder
    torch.manual_seed(0)
    place = tmp_path / "distributed"
    manifest.save_distributed(nn.Linear(2, 2), place, key="alice.key", golden=False, family="opaque")

    cosignature = manifest.sign(place, "bob.key")

    assert cosignature == place / "model.2.sig"
    assert all(manifest.verify(place, key=f"{name}.pub", fast=True).passed for name in ("alice", "bob"))

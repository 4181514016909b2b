"""Cures of findings on trust, integrity, and format and safety; each function is called as its rule is."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

import manifest
from manifest.schema.report import Report
from manifest.storage.sidecars import Sidecars
from tests.promises.cures.following import TEST_VIT, Advice, Bench, Case


def _changed(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def _fast(path: Path, bench: Bench | None = None) -> Report:
    return manifest.verify(path, fast=True, key=bench and bench.folder / "release.pub")


def signer_unknown(bench: Bench) -> Case:
    path = bench.signed()
    advice = yield _fast(path)
    yield advice.looks("verify", {"CKPT": path})


def unsigned(bench: Bench) -> Case:
    path = bench.signed()
    bench.unsigned()
    advice = yield _fast(path)
    advice.runs("sign", {"CKPT": path})
    yield _fast(path, bench)


def signature_invalid(bench: Bench) -> Case:
    path = bench.signed()
    text = json.loads(Sidecars(path).signature.read_text())
    signature = text["dsseEnvelope"]["signatures"][0]["sig"]
    _changed(Sidecars(path).signature, signature.encode(), (signature[:-4] + "AAA=").encode())
    advice = yield _fast(path, bench)
    advice.says("Get the checkpoint, its manifest and its signature again from their source")
    bench.again("ckpt.pt", "ckpt.pt.manifest.json", "ckpt.pt.manifest.sig")
    yield _fast(path, bench)


def signature_missing(bench: Bench) -> Case:
    path = bench.signed()
    Sidecars(path).signature.unlink()
    advice = yield _fast(path)
    advice.says("Copy the `.manifest.sig` file too")
    bench.again("ckpt.pt.manifest.sig")
    yield _fast(path, bench)
    Sidecars(path).signature.unlink()
    advice.runs("sign", {"CKPT": path})
    yield _fast(path, bench)


def signature_malformed(bench: Bench) -> Case:
    path = bench.signed()
    Sidecars(path).signature.write_bytes(b"{ not a bundle")
    advice = yield _fast(path)
    advice.says("Get the `.manifest.sig` file again from its source")
    bench.again("ckpt.pt.manifest.sig")
    yield _fast(path, bench)
    Sidecars(path).signature.write_bytes(b"{ not a bundle")
    advice.runs("sign", {"CKPT": path})
    yield _fast(path, bench)


def signature_of_another(bench: Bench) -> Case:
    path = bench.signed()

    def edit() -> None:
        _changed(Sidecars(path).manifest, b'"timm"', b' "timm"')

    edit()
    advice = yield _fast(path)
    advice.says("Put back the manifest that was signed")
    bench.again("ckpt.pt.manifest.json")
    yield _fast(path, bench)
    edit()
    advice.runs("sign", {"CKPT": path})
    yield _fast(path, bench)


def pending_manifest(bench: Bench) -> Case:
    """A save that was killed between its renames; one over a signed checkpoint, which only its key can replace."""
    path = bench.unsigned()
    Sidecars(path).manifest.rename(Sidecars(path).pending_manifest)
    advice = yield _fast(path)
    advice.runs("repair", {"CKPT": path})
    yield _fast(path)


def pending_manifest_when_over_signed(bench: Bench) -> Case:
    """Other weights were saved over a signed checkpoint, without a key, and the save was killed."""
    other = bench.unsigned()
    pending = Sidecars(other).manifest.read_bytes()
    content = other.read_bytes()
    path = bench.signed()

    def kill() -> None:
        bench.signed()
        path.write_bytes(content)
        Sidecars(path).pending_manifest.write_bytes(pending)

    kill()
    advice = yield _fast(path)
    advice.runs("repair", {"CKPT": path})
    yield _fast(path, bench)
    kill()
    advice.says("otherwise remove it")
    Sidecars(path).pending_manifest.unlink()
    yield _fast(path, bench)


def _got_again(advice: Advice, bench: Bench, words: str = "Get the file again") -> Report:
    advice.says(words)
    bench.again("ckpt.pt")
    return _fast(bench.folder / "ckpt.pt", bench)


def _tensor_changed(bench: Bench) -> Path:
    path = bench.signed()
    state = bench.state()
    state["norm.weight"][0] += 1
    torch.save(state, path)
    return path


def bytes_changed(bench: Bench) -> Case:
    path = bench.signed()
    _changed(path, b"little", b"littlf")
    advice = yield _fast(path, bench)
    yield _got_again(advice, bench)


def tensors_changed(bench: Bench) -> Case:
    path = _tensor_changed(bench)
    advice = yield _fast(path, bench)
    yield _got_again(advice, bench)
    _tensor_changed(bench)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield _fast(path)


def tensors_changed_when_two_are_compared(bench: Bench) -> Case:
    path = _tensor_changed(bench)
    other = path.with_name("other.pt")
    torch.save(bench.state(), other)
    manifest.create(other, "test_vit", family="timm", golden=False)
    advice = yield manifest.diff(path, other)
    assert advice.looks("verify", {"CKPT": path}).exit_code == 1  # which finds out that the file is wrong
    bench.again("ckpt.pt")
    yield manifest.diff(path, other)


def size_differs(bench: Bench) -> Case:
    path = bench.signed()
    path.write_bytes(path.read_bytes()[:-1000])
    advice = yield _fast(path, bench)
    yield _got_again(advice, bench, "Copy the file again")


def other_weights(bench: Bench) -> Case:
    path = bench.signed()
    torch.save({name: value + 1 for name, value in bench.state().items()}, path)
    other = path.rename(path.with_name("other.pt"))
    for sidecar in (Sidecars(path).manifest, Sidecars(path).signature):
        sidecar.rename(sidecar.with_name(sidecar.name.replace("ckpt", "other")))
    advice = yield _fast(other)
    advice.says("Put the manifest beside the checkpoint it was written for")
    bench.again("ckpt.pt")
    for sidecar in (Sidecars(other).manifest, Sidecars(other).signature):
        sidecar.rename(sidecar.with_name(sidecar.name.replace("other", "ckpt")))
    yield _fast(path, bench)


def not_a_checkpoint(bench: Bench) -> Case:
    weights = bench.write(bench.state())
    archive = bench.folder / "weights.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(weights, weights.name)
    weights.unlink()
    advice = yield manifest.audit(archive)
    advice.says("an archive to unpack")
    shutil.unpack_archive(archive, bench.folder)  # Python 3.11.2 knows no filters of tarfile
    yield manifest.audit(weights)


def malformed(bench: Bench) -> Case:
    path = bench.write(bench.state(), "weights.pt")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    advice = yield manifest.audit(path)
    advice.says("Get the file again, or write it anew with `torch.save`")
    path.write_bytes(whole)
    yield manifest.audit(path)


def unsupported_container(bench: Bench) -> Case:
    path = bench.folder / "weights.npy"
    np.save(path, {name: value.numpy() for name, value in bench.state().items()}, allow_pickle=True)
    advice = yield manifest.audit(path)
    advice.says("save its weights by `torch.save` or as safetensors")
    loaded = np.load(path, allow_pickle=True).item()
    yield manifest.audit(bench.write({name: torch.from_numpy(value) for name, value in loaded.items()}))


def unsupported_container_when_a_tensor_has_no_values(bench: Bench) -> Case:
    path, table = bench.folder / "net.pt", torch.eye(20)
    torch.save(bench.state() | {"table": table.to("meta")}, path)
    advice = yield manifest.audit(path)
    advice.says("Save it as a plain tensor")
    torch.save(bench.state() | {"table": table}, path)
    yield manifest.audit(path)


def container_differs(bench: Bench) -> Case:
    path = bench.signed()
    save_file(bench.state(), path)
    advice = yield _fast(path)
    advice.says("Put back the file that the manifest was written for")
    bench.again("ckpt.pt")
    yield _fast(path, bench)


def manifest_inconsistent(bench: Bench) -> Case:
    path = bench.unsigned()
    content = json.loads(Sidecars(path).manifest.read_bytes())
    content["weights"]["tensors"][0]["digest"] = "blake3:" + "0" * 64
    Sidecars(path).manifest.write_text(json.dumps(content))
    advice = yield _fast(path)
    advice.runs("create", TEST_VIT | {"CKPT": path})
    yield _fast(path)


def _sharded(bench: Bench) -> Path:
    """A directory of two shards and their index."""
    place = bench.folder / "sharded"
    place.mkdir(exist_ok=True)
    state = bench.state()
    names = sorted(state)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, place / file)
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    return place


def file_astray(bench: Bench) -> Case:
    place, name = _sharded(bench), "model-00002-of-00002.safetensors"
    (place / name).rename(bench.folder / name)
    index = place / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace(name, f"../{name}"))
    advice = yield manifest.audit(place)
    advice.says("Get it with every file in its own directory")
    (bench.folder / name).rename(place / name)
    index.write_text(text)
    yield manifest.audit(place)


def file_missing(bench: Bench) -> Case:
    place = _sharded(bench)
    (place / "model-00002-of-00002.safetensors").unlink()
    advice = yield manifest.audit(place)
    advice.says("Get the whole checkpoint again")
    _sharded(bench)
    yield manifest.audit(place)


def file_missing_when_the_index_is_of_another_split(bench: Bench) -> Case:
    place = _sharded(bench)
    index = place / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace("of-00002", "of-00003"))
    advice = yield manifest.audit(place)
    advice.says("Get the index that belongs to those files")
    index.write_text(text)
    yield manifest.audit(place)


def over_limit(bench: Bench) -> Case:
    path = bench.write(bench.state())
    whole = path.read_bytes()
    path.write_bytes((1 << 40).to_bytes(8, "little") + whole[8:])
    advice = yield manifest.audit(path)
    advice.says("Get the file again")
    path.write_bytes(whole)
    yield manifest.audit(path)


class Unsafe:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def unsafe_global(bench: Bench) -> Case:
    path = bench.folder / "ckpt.pt"
    torch.save({"state_dict": bench.state(), "extra": Unsafe()}, path)
    advice = yield manifest.audit(path)
    manifest.create(path, "test_vit", family="timm", golden=False)
    loaded = advice.evaluated(r"`(manifest\.load\(CKPT\))`", CKPT=path)
    assert torch.equal(loaded.norm.weight, bench.state()["norm.weight"])
    out = bench.folder / "out.safetensors"
    advice.runs("convert", {"CKPT": path, "OUT": out.with_suffix("")})
    yield manifest.audit(out)


def refused_by_torch(bench: Bench) -> Case:
    path = bench.folder / "ckpt.pt"
    torch.save({"state_dict": bench.state(), "args": argparse.Namespace(lr=0.1)}, path)
    advice = yield manifest.audit(path)
    out = bench.folder / "out.safetensors"
    advice.runs("convert", {"CKPT": path, "OUT": out.with_suffix("")})
    yield manifest.audit(out)


def program_inside(bench: Bench) -> Case:
    path = bench.folder / "program.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(20, 20), torch.nn.Linear(20, 3))).save(path)
    advice = yield manifest.audit(path)
    out = bench.folder / "out.safetensors"
    advice.runs("convert", {"CKPT": path, "OUT": out.with_suffix("")})
    yield manifest.audit(out)

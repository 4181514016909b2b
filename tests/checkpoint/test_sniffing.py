"""Files that are no container to read are named for what they are, by their bytes."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile

import numpy
import pytest


def tar(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


def archive(*names: str, compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as opened:
        for name in names:
            opened.writestr(name, b"content of the record")
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.ones(3))
    return buffer.getvalue()


KNOWN = {
    "tar of torch": (lambda: tar("storages"), "torch's tar form from before version 0.1.10"),
    "plain pickle": (lambda: pickle.dumps({"w": [1.0]}), "a plain pickle"),
    "plain pickle of protocol 0": (lambda: pickle.dumps({"w": [1.0]}, protocol=0), "a plain pickle"),
    "old TorchScript": (lambda: archive("m/model.json", "m/tensors/0"), "a TorchScript program from before torch 1.4"),
    "npy": (npy, "a numpy array"),
    "Keras": (lambda: archive("config.json", "model.weights.h5"), "a Keras model"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
    "GGUF": (lambda: b"GGUF\x03\0\0\0" + bytes(99), "a GGUF file"),
}

FOREIGN = {
    "empty": (lambda: b"", "the file is empty"),
    "HTML": (lambda: b"\n<!DOCTYPE html><html><title>404</title></html>", "a web page"),
    "git-lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a pointer of git-lfs"),
    "text": (lambda: b"Entry not found\n", "a text file"),
    "JSON": (lambda: b'{"model_type": "clip"}', "a text file"),
    "text with a brace in ninth place": (lambda: b'config: {"a": 1}', "a text file"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(99), "a gzip archive"),
    "tar": (lambda: tar("model.pt"), "a tar archive"),
    "zip": (lambda: archive("a.txt", "b/c.pt", compression=zipfile.ZIP_DEFLATED), "a zip archive"),
    "zeros": (lambda: bytes(10_000), "begins with zeros"),
    "noise": (lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF" * 9, r"its first bytes, b'\xff\xd8\xff\xe0\x00\x10JF'"),
    "one byte": (lambda: b"\x80", r"b'\x80'"),
}


@pytest.mark.parametrize("kind", KNOWN)
def test_container_when_known_but_unsupported_then_is_refused_by_name(kind, forge, refusal):
    content, found = KNOWN[kind]
    error = refusal(forge.file(content()))
    assert error.rule == "F004"
    assert found in str(error)


@pytest.mark.parametrize("kind", FOREIGN)
def test_file_when_no_checkpoint_then_is_refused_for_what_it_is(kind, forge, refusal):
    content, found = FOREIGN[kind]
    error = refusal(forge.file(content()))
    assert error.rule == "F001"
    assert found in str(error)


def test_name_of_the_file_when_it_turns_the_text_around_then_is_shown_escaped(forge, refusal):
    error = refusal(forge.file(b"\xff" * 20, "a\u202eb.pt"))
    assert "\\u202e" in str(error)

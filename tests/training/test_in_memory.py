"""Checkpoints that a script saves into memory and writes to a file by itself."""

from __future__ import annotations

import builtins
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

import manifest


def into_bytes(model: torch.nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def by_open(content: bytes, path: Path) -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(content)


def by_pathlib(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def by_another_name(content: bytes, path: Path) -> None:
    path.with_suffix(".part").write_bytes(content)
    os.replace(path.with_suffix(".part"), path)  # noqa: PTH105


def in_a_thread(content: bytes, path: Path) -> None:
    thread = threading.Thread(target=path.write_bytes, args=(content,))
    thread.start()
    thread.join()


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


@pytest.mark.parametrize("write", [by_open, by_pathlib, by_another_name, in_a_thread])
def test_file_when_written_from_memory_then_is_described(write: Callable[..., None], model, tmp_path):
    with manifest.recording(golden="none") as recorder:
        write(into_bytes(model), tmp_path / "ckpt.pt")
        (tmp_path / "notes.txt").write_text("beside it")
    assert recorder.described == [tmp_path / "ckpt.pt"]
    assert manifest.verify(tmp_path / "ckpt.pt").passed


def test_file_of_safetensors_when_written_from_memory_then_is_described(model, tmp_path):
    with manifest.recording(golden="none") as recorder:
        (tmp_path / "ckpt.safetensors").write_bytes(safetensors.torch.save(model.state_dict()))
    assert recorder.described == [tmp_path / "ckpt.safetensors"]


def test_open_when_nothing_was_saved_into_memory_then_is_pythons_own(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = builtins.open
    with manifest.recording(golden="none"):
        torch.save(model.state_dict(), tmp_path / "ckpt.pt")
        assert builtins.open is io.open is before
        into_bytes(model)
        assert builtins.open is not before
        holder = type("Holder", (), {"open": builtins.open})()
        with holder.open(tmp_path / "text", "w") as file:
            file.write("in a class")
    assert builtins.open is io.open is before


def test_optimizer_when_saved_into_memory_then_is_not_missed():
    with manifest.recording(golden="none") as recorder:
        buffer = io.BytesIO()
        torch.save(torch.zeros(3), buffer)
    assert recorder.left_alone == []

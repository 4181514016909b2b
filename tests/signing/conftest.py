"""A small signed checkpoint and the keys of four people; the test may do with its copy what it likes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.signing import generate_keys

PEOPLE = ("alice", "bob", "carol", "eve")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ckpt.safetensors`, which alice signed, and `NAME.key` and `NAME.pub` of everybody."""
    folder = tmp_path_factory.mktemp("template")
    for name in PEOPLE:
        generate_keys(folder / name)
    torch.manual_seed(0)
    manifest.save(nn.Linear(2, 2), folder / "ckpt.safetensors", key=folder / "alice.key", golden=False, family="opaque")
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the current directory; no trust file of the environment or the user holds."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MANIFEST_TRUST", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def checkpoint(folder: Path) -> Path:
    return folder / "ckpt.safetensors"

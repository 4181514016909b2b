"""A hub on this machine, and signed checkpoints of each kind to push to it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as dcp

import manifest
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars
from tests.hub.server import TOKEN, Hub, serving

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub that the library asks, in this process and in those that it starts."""
    with serving() as running:
        ask(running, monkeypatch, tmp_path_factory.mktemp("hf"))
        yield running


def ask(hub: Hub, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Have the library ask a hub, in this process and in those that it starts, and keep its files in some folder."""
    variables = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(home)}
    variables["HF_HUB_DISABLE_XET"] = "1"  # the hub here speaks LFS alone
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # The library has read its variables already, and reads these of their values at each call.
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))


@pytest.fixture(scope="session")
def made(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits CLIP of each kind, signed, and the keys."""
    folder = tmp_path_factory.mktemp("made")
    generate_keys(folder / "release")
    generate_keys(folder / "other")
    state = load_file(digits.WEIGHTS)
    for source, target in (
        (digits.WEIGHTS, folder / "clip.safetensors"),
        (Sidecars(digits.WEIGHTS).manifest, Sidecars(folder / "clip.safetensors").manifest),
    ):
        shutil.copy(source, target)
    torch.save(state, folder / "clip.pt")
    names = sorted(state)
    parts = dict(zip(SHARDS, (names[::2], names[1::2]), strict=True))
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (folder / INDEX).write_text(json.dumps(index))
    dcp.save({"model": state}, checkpoint_id=folder / "step-9")
    for name in ("clip.pt", INDEX, "step-9"):
        manifest.create(folder / name, digits.MODEL, family="open_clip", golden=False)
    for name in ("clip.safetensors", "clip.pt", INDEX, "step-9"):
        manifest.sign(folder / name, folder / "release.key")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """The test's own directory, with copies of those."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def pushed(made: Path, hub: Hub) -> Hub:
    """The hub with `acme/clip`, which has `clip.safetensors` and a stranger's pickle."""
    manifest.push(made / "clip.safetensors", "acme/clip")
    repository = hub.repository("acme/clip")
    repository.commit({**repository.head.files, "training.pkl": b"cos\nsystem\n(S'true'\ntR."}, "more")
    hub.requests.clear()
    return hub


@pytest.fixture
def alter(pushed: Hub) -> Callable[[str, bytes], None]:
    """Changes a file of `acme/clip`, by another commit."""

    def change(path: str, data: bytes) -> None:
        repository = pushed.repository("acme/clip")
        repository.commit({**repository.head.files, path: data}, f"another {path}")

    return change


def visible(folder: Path) -> set[str]:
    """Names in a directory, hidden ones too; none where it is not there."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()

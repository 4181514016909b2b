from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.remote import reading
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars
from tests.remote.servers import Server, serving


@pytest.fixture(scope="session")
def published(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a signed checkpoint in three containers, `digits.*`, and the public key `release.pub`."""
    import torch
    from safetensors.torch import load_file

    folder = tmp_path_factory.mktemp("published")
    private, _ = generate_keys(folder / "release")
    path = folder / "digits.safetensors"
    for source, target in ((digits.WEIGHTS, path), (Sidecars(digits.WEIGHTS).manifest, Sidecars(path).manifest)):
        shutil.copy(source, target)
    manifest.sign(path, key=private)
    state = load_file(digits.WEIGHTS)
    torch.save(state, folder / "digits.pt")
    torch.save(state, folder / "digits-legacy.pt", _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def server(published: Path) -> Iterator[Server]:
    """A server of that folder."""
    with serving(published) as running:
        yield running


@pytest.fixture(autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    place = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is asked again at once."""
    monkeypatch.setattr(reading, "_FIRST_PAUSE", 0.01)

"""Whether a checkpoint is as it was is told without reading it, but for what was changed a moment ago."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manifest.storage import states
from manifest.storage.states import is_still, state_of
from tests.remote.servers import serving


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """The index of a checkpoint in two files."""
    for part in ("one", "two"):
        save_file({part: torch.ones(4)}, tmp_path / f"{part}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {part: f"{part}.safetensors" for part in ("one", "two")}}))
    return index


def test_checkpoint_that_nobody_touches_is_as_it_was(sharded: Path) -> None:
    assert is_still(sharded, json.loads(json.dumps(state_of(sharded))))
    assert is_still(sharded.parent, state_of(sharded.parent))


@pytest.mark.parametrize("name", ["one.safetensors", "model.safetensors.index.json"])
def test_shard_that_is_changed_is_another_checkpoint(sharded: Path, name: str) -> None:
    before = state_of(sharded)
    with (sharded.parent / name).open("ab") as file:
        file.write(b" ")
    assert not is_still(sharded, before)


@pytest.mark.parametrize("name", ["model.safetensors.index.json.manifest.json", "config.json"])
def test_file_that_comes_to_lie_beside_it_makes_another_checkpoint(sharded: Path, name: str) -> None:
    before = state_of(sharded)
    (sharded.parent / name).write_text("{}")
    assert not is_still(sharded, before)


def test_bytes_that_are_changed_under_the_same_time_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "_MOMENT", 0)  # or the digest would show it
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    status, before = path.stat(), state_of(path)
    while path.stat().st_ctime_ns == status.st_ctime_ns:
        path.write_bytes(b"two")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert not is_still(path, before)


def test_file_that_was_just_changed_is_read_and_an_old_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"one")
    ((*entry, digest),) = state_of(path)
    assert digest is not None
    assert not is_still(path, [[*entry, digest.replace(digest[0], "x")]])  # as after a change within the same moment
    monkeypatch.setattr(states, "_MOMENT", -3600 * 10**9)  # as an hour later
    ((*entry, digest),) = state_of(path)
    assert digest is None
    assert is_still(path, [[*entry, None]])


def test_nothing_is_known_of_what_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / ("long" * 200), "http://127.0.0.1:9/none.pt"):
        assert state_of(path) == []
        assert not is_still(path, [])


def test_index_that_names_other_places_leads_nowhere(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"one": "/etc/passwd", "two": "../other.pt", "three": 3}}))
    assert [entry[0] for entry in state_of(index)] == [index.name]


def test_file_at_an_address_is_told_by_what_its_server_says(sharded: Path) -> None:
    with serving(sharded.parent) as server:
        address = f"{server.address}/{sharded.name}"
        before = json.loads(json.dumps(state_of(address)))  # as a journal has it
        assert [entry[0].rpartition("/")[2] for entry in before] == [
            sharded.name,
            "one.safetensors",
            "two.safetensors",
        ]
        assert is_still(f"{address}?token=secret", before)
        assert "secret" not in str(state_of(f"{address}?token=secret"))
        assert server.sent("one.safetensors") == 3  # a byte each time
        save_file({"one": torch.ones(5)}, sharded.parent / "one.safetensors")
        assert not is_still(address, before)

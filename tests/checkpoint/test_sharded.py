"""Checkpoints in several files with an index: what is read is what one file would have held."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError

STATE = {
    "visual.proj": torch.arange(64.0).reshape(8, 8),
    "visual.half": torch.randn(16, 3).half(),
    "text.bf16": torch.randn(5, 7).bfloat16(),
    "text.ids": torch.arange(12),
    "logit_scale": torch.tensor(4.6),
}
INDEX = "model.safetensors.index.json"


def by_hub(folder: Path, *, safe: bool) -> Path:
    """Shards and index as Hugging Face's library writes them."""
    folder.mkdir(exist_ok=True)
    save_torch_state_dict(STATE, folder, max_shard_size=200, safe_serialization=safe)
    (index,) = folder.glob("*.index.json")
    assert len(list(folder.iterdir())) > 3
    return index


def by_hand(
    folder: Path,
    shards: Mapping[str, Mapping[str, Any]],
    write: Callable[[Any, Path], None] = save_file,
    **changes: str,
) -> Path:
    """The same by hand, so that index and shards can be at odds."""
    for name, tensors in shards.items():
        write(dict(tensors), folder / name)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    index = folder / INDEX
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": {**weight_map, **changes}}))
    return index


def legacy(state: Any, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


HALVES = {"a.st": {"v": torch.ones(3)}, "b.st": {"w": torch.arange(4.0)}}
BOTH = {"v": torch.ones(3), "w": torch.arange(4.0)}


@pytest.mark.parametrize(("safe", "container"), [(True, "safetensors"), (False, "torch-zip")])
def test_shards_when_written_by_the_hub_then_are_those_of_the_whole(tmp_path, check_weights, safe, container):
    with open_checkpoint(by_hub(tmp_path, safe=safe)) as checkpoint:
        assert checkpoint.container == container
        check_weights(checkpoint, STATE)


def test_shards_when_of_the_legacy_form_then_are_those_of_the_whole(tmp_path, check_weights):
    with open_checkpoint(by_hand(tmp_path, {"1.bin": BOTH, "2.bin": STATE}, legacy)) as checkpoint:
        assert checkpoint.container == "torch-legacy"
        check_weights(checkpoint, {**BOTH, **STATE})


def test_digests_when_of_shards_then_equal_those_of_a_single_file(tmp_path, save):
    with open_checkpoint(by_hub(tmp_path, safe=True)) as shards, open_checkpoint(save(STATE)) as single:
        assert {name: shards.digest(tensor) for name, tensor in shards.tensors.items()} == {
            name: single.digest(tensor) for name, tensor in single.tensors.items()
        }


def test_directory_when_it_has_an_index_then_is_the_sharded_checkpoint(tmp_path, check_weights):
    index = by_hub(tmp_path, safe=True)
    (tmp_path / "config.json").write_text("{}")
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.files[0].name == index.name
        assert checkpoint.path == tmp_path
        check_weights(checkpoint, STATE)


def test_files_when_there_are_several_then_all_count(tmp_path):
    index = by_hub(tmp_path, safe=True)
    with open_checkpoint(index) as checkpoint:
        assert {file.name for file in checkpoint.files} == {path.name for path in tmp_path.iterdir()}
        assert checkpoint.size == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_strided_tensors_when_in_shards_then_are_gathered_from_their_own_file(tmp_path, check_weights):
    flat = torch.arange(24.0)
    state = {"turned": flat.reshape(4, 6).t(), "part": flat[2:14:3]}
    with open_checkpoint(by_hand(tmp_path, {"1.bin": BOTH, "2.bin": state}, torch.save)) as checkpoint:
        check_weights(checkpoint, {**BOTH, **state})


def test_composite_tensors_when_in_shards_then_digest_as_in_a_single_file(tmp_path, save):
    sparse = {"s": torch.eye(3).to_sparse()}
    index = by_hand(tmp_path, {"1.bin": BOTH, "2.bin": sparse}, torch.save)
    with open_checkpoint(index) as shards, open_checkpoint(save(sparse)) as single:
        assert shards.digest(shards.tensors["s"]) == single.digest(single.tensors["s"])


def test_tied_weights_when_in_one_shard_then_are_aliases_and_in_two_are_not(tmp_path):
    tied = torch.ones(4)
    shards = {"1.bin": {"a": tied, "b": tied}, "2.bin": {"c": tied}}
    with open_checkpoint(by_hand(tmp_path, shards, torch.save)) as checkpoint:
        assert checkpoint.aliases() == {"b": "a"}


def test_prefix_when_on_every_name_of_all_shards_then_is_stripped(tmp_path):
    shards = {"a.st": {"module.v": torch.ones(3)}, "b.st": {"module.w": torch.ones(4)}}
    with open_checkpoint(by_hand(tmp_path, shards)) as checkpoint:
        assert (checkpoint.prefix, list(checkpoint.tensors)) == ("module.", ["v", "w"])


def test_prefix_when_on_the_names_of_one_shard_only_then_stays(tmp_path):
    shards = {"a.st": {"module.v": torch.ones(3)}, "b.st": {"w": torch.ones(4)}}
    with open_checkpoint(by_hand(tmp_path, shards)) as checkpoint:
        assert (checkpoint.prefix, list(checkpoint.tensors)) == ("", ["module.v", "w"])


def test_globals_when_in_any_shard_then_are_named(tmp_path, strangers):
    shards = {"1.bin": BOTH, "2.bin": {"x": torch.ones(2), "path": Path("x")}}
    index = by_hand(tmp_path, shards, torch.save)
    index.write_text(index.read_text().replace(', "path": "2.bin"', ""))
    with open_checkpoint(index) as checkpoint:
        assert strangers(checkpoint) == ("pathlib.PosixPath",)
        assert checkpoint.extras == ("path",)


def test_index_when_it_has_a_byte_order_mark_then_is_read(tmp_path, check_weights):
    index = by_hand(tmp_path, HALVES)
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    with open_checkpoint(index) as checkpoint:
        check_weights(checkpoint, BOTH)


def into_cache(folder: Path, cache: Path) -> Path:
    """A folder as the hub's cache keeps it: blobs by their digest, and a snapshot of links to them."""
    snapshot = cache / "snapshots" / "0123abc"
    blobs = cache / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for path in folder.iterdir():
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", digest))
    return snapshot


def test_shards_when_links_in_the_cache_of_the_hub_then_are_read(tmp_path, check_weights):
    folder = tmp_path / "plain"
    by_hub(folder, safe=True)
    snapshot = into_cache(folder, tmp_path / "models--x--y")
    for path in (snapshot, snapshot / INDEX):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.container == "safetensors"
            check_weights(checkpoint, STATE)


def test_shard_when_a_link_to_another_file_beside_it_then_is_read(tmp_path, check_weights):
    index = by_hand(tmp_path, HALVES)
    (tmp_path / "a.st").rename(tmp_path / "real.st")
    (tmp_path / "a.st").symlink_to("real.st")
    with open_checkpoint(index) as checkpoint:
        check_weights(checkpoint, BOTH)


def linked_outside(folder: Path) -> Path:
    index = by_hand(folder, HALVES)
    (folder / "outside").mkdir()
    (folder / "a.st").rename(folder / "outside" / "a.st")
    (folder / "a.st").symlink_to(Path("outside", "a.st"))
    return index


def without_a_shard(folder: Path) -> Path:
    index = by_hand(folder, HALVES)
    (folder / "b.st").unlink()
    return index


def emptied(folder: Path) -> Path:
    index = by_hand(folder, HALVES)
    (folder / "b.st").write_bytes(b"")
    return index


def piped(folder: Path) -> Path:
    index = without_a_shard(folder)
    os.mkfifo(folder / "b.st")
    return index


def cut(folder: Path) -> Path:
    index = by_hand(folder, HALVES)
    (folder / "b.st").write_bytes((folder / "b.st").read_bytes()[:-1])
    return index


def of_two_kinds(folder: Path) -> Path:
    index = by_hand(folder, HALVES)
    torch.save(dict(HALVES["b.st"]), folder / "b.st")
    return index


def said(text: str) -> Callable[[Path], Path]:
    """An index of these words."""

    def write(folder: Path) -> Path:
        index = by_hand(folder, HALVES)
        index.write_text(text)
        return index

    return write


def at_odds(**changes: str) -> Callable[[Path], Path]:
    return lambda folder: by_hand(folder, HALVES, **changes)


BROKEN: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "a shard above": (at_odds(w="../b.st"), "F007", "names '../b.st', where the name of a file beside it"),
    "a shard by an absolute path": (at_odds(w="/etc/passwd"), "F007", "names '/etc/passwd', where"),
    "a shard in a folder": (at_odds(w="x/b.st"), "F007", "names 'x/b.st', where"),
    "a shard behind a backslash": (at_odds(w="..\\b.st"), "F007", r"names '..\x5cb.st', where"),
    "a shard on a drive": (at_odds(w="C:b.st"), "F007", "names 'C:b.st', where"),
    "a shard with a null character": (at_odds(w="b.st\0"), "F007", r"names 'b.st\x00', where"),
    "a shard without a name": (at_odds(w=""), "F007", "names '', where"),
    "a shard called as its folder": (at_odds(w="."), "F007", "names '.', where"),
    "a shard called as the folder above": (at_odds(w=".."), "F007", "names '..', where"),
    "a link that leads out": (linked_outside, "F007", "names 'a.st', a link that leads out of its directory"),
    "a shard missing": (without_a_shard, "F008", "names 'b.st', which is no readable file beside it"),
    "a pipe for a shard": (piped, "F008", "names 'b.st', which is no readable file beside it"),
    "an empty shard": (emptied, "F001", "of 'b.st', which it names, the file is empty"),
    "a shard cut short": (
        cut,
        "F002",
        "in 'b.st', it is cut short, or its header is wrong: tensor 'w' ends",
    ),
    "shards of two kinds": (of_two_kinds, "F002", "different containers, safetensors and torch-zip"),
    "the index for a shard": (
        said('{"weight_map": {"v": "model.safetensors.index.json"}}'),
        "F002",
        "neither safetensors nor of torch.save",
    ),
    "a name that is in no shard": (at_odds(x="a.st"), "F002", "'x' is not in 'a.st', as the index says"),
    "a name in the other shard": (at_odds(w="a.st"), "F002", "'w' is not in 'a.st', as the index says"),
    "no name at all": (said('{"weight_map": {}}'), "F001", "the index lists no tensor"),
    "a name that the index does not have": (
        said('{"weight_map": {"w": "b.st", "x": "a.st"}}'),
        "F002",
        "'a.st' holds 'v', which the index does not say",
    ),
    "a name in two shards": (
        lambda folder: by_hand(folder, {"a.st": HALVES["a.st"], "b.st": BOTH}, v="a.st"),
        "F002",
        "'b.st' holds 'v', which the index does not say",
    ),
    "a map that is a list": (said('{"weight_map": ["a.st"]}'), "F002", "'weight_map' in the index is no object"),
    "a map of numbers": (said('{"weight_map": {"v": 1}}'), "F002", "is no object of file names"),
    "no map": (said('{"metadata": {"total_size": 1}}'), "F002", "is no object of file names"),
    "a name twice": (said('{"weight_map": {"v": "a.st", "v": "b.st"}}'), "F002", "has the key 'v' twice"),
    "words that are not JSON": (said('{"weight_map": {"v": "a.st"'), "F002", "the index is not JSON"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_sharded_checkpoint_when_broken_or_hostile_then_is_refused(case, tmp_path, refusal):
    make, rule, found = BROKEN[case]
    error = refusal(make(tmp_path))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_index_when_files_of_another_split_lie_beside_it_then_says_so(tmp_path: Path) -> None:
    for part in (1, 2, 3):
        save_file({f"w{part}": torch.zeros(2)}, tmp_path / f"model-0000{part}-of-00003.safetensors")
    index = {"weight_map": {"w1": "model-00001-of-00007.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    belongs = "get the index that belongs to those files, from where they are from and of the same revision"
    with pytest.raises(
        CheckpointError, match=f"all 3 files of a split into 3 are: the index is not theirs; {belongs}.$"
    ):
        open_checkpoint(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"2 of the 3 files .*{belongs}, and the files that .* \(part 2\)\.$"):
        open_checkpoint(tmp_path)
    (tmp_path / "model-00001-of-00007.safetensors").write_bytes(b"")  # it is at fault itself, and no other split
    with pytest.raises(CheckpointError, match="the file is empty"):
        open_checkpoint(tmp_path)


def test_index_of_another_split_when_the_right_one_replaces_it_then_all_is_read(tmp_path: Path) -> None:
    for folder, size in (("few", 320), ("many", 200)):
        (tmp_path / folder).mkdir()
        save_torch_state_dict(STATE, tmp_path / folder, max_shard_size=size)
    right = (tmp_path / "few" / INDEX).read_bytes()
    assert len(list((tmp_path / "few").iterdir())) < len(list((tmp_path / "many").iterdir()))
    (tmp_path / "few" / INDEX).write_bytes((tmp_path / "many" / INDEX).read_bytes())
    (found,) = manifest.audit(tmp_path / "few").findings()
    assert (found.rule, found.remedy.startswith("Get the index that belongs to those files")) == ("F008", True)
    (tmp_path / "few" / INDEX).write_bytes(right)
    with open_checkpoint(tmp_path / "few") as stored:
        assert stored.tensors.keys() == STATE.keys()

"""Which file of a directory leads to the checkpoint in it; only names count."""

from __future__ import annotations

import pytest

from manifest.checkpoint.directories import entry
from manifest.errors import CheckpointError, InputError

SINGLE = ["model.safetensors", "pytorch_model.bin", "m.pt", "m.pth", "m.ckpt", "m.npz", "m.pt2", "m.pth.tar"]
BESIDE = ["config.json", "tokenizer.json", "README.md", "vocab.txt", ".gitattributes"]

CHOSEN: dict[str, tuple[list[str], str]] = {
    "metadata of a distributed one": ([".metadata", "__0_0.distcp", "__1_0.distcp"], ".metadata"),
    "metadata before an index": ([".metadata", "model.safetensors.index.json"], ".metadata"),
    "metadata before a single file": ([".metadata", "model.pt"], ".metadata"),
    "index before its shards": (["x.bin.index.json", "x-1.bin", "x-2.bin"], "x.bin.index.json"),
    "index before a single file": (["model.safetensors.index.json", "a.pt"], "model.safetensors.index.json"),
    "index without code before one with": (
        ["a.bin.index.json", "model.safetensors.index.json"],
        "model.safetensors.index.json",
    ),
    "file without code before one with": (["a.bin", "b.pt", "model.safetensors"], "model.safetensors"),
    "hidden files passed over": ([".model.safetensors", "._model.pt", ".x.index.json", "model.pt"], "model.pt"),
}
SEVERAL: dict[str, tuple[list[str], str]] = {
    "indexes": (["a.bin.index.json", "b.bin.index.json"], "'a.bin.index.json', 'b.bin.index.json'"),
    "indexes without code": (["a.safetensors.index.json", "b.safetensors.index.json", "c.pt"], "'a.safet"),
    "files without code": (["a.safetensors", "b.safetensors", "c.bin"], "2 checkpoints, 'a.safetensors', 'b.safet"),
    "files": (["a.bin", "b.pt"], "2 checkpoints, 'a.bin', 'b.pt'"),
}


@pytest.fixture
def directory(tmp_path):
    def made(names):
        for name in (*names, *BESIDE):
            (tmp_path / name).write_bytes(b"x")
        return tmp_path

    return made


@pytest.mark.parametrize("name", SINGLE)
def test_directory_when_it_has_one_file_of_weights_then_is_that(directory, name):
    path = directory([name])
    assert entry(path) == path / name


@pytest.mark.parametrize("case", CHOSEN)
def test_directory_when_it_has_several_forms_then_one_comes_first(case, directory):
    names, chosen = CHOSEN[case]
    assert entry(directory(names)).name == chosen


@pytest.mark.parametrize("case", SEVERAL)
def test_directory_when_it_has_several_of_a_form_then_asks_for_one(case, directory):
    names, found = SEVERAL[case]
    with pytest.raises(InputError) as caught:
        entry(directory(names))
    assert found in str(caught.value)
    assert str(caught.value).endswith("; pass one of them.")


@pytest.mark.parametrize("names", [[], ["model.onnx", "model.json", "index.json.bak"]], ids=["none", "others"])
def test_directory_when_it_has_no_checkpoint_then_is_refused(directory, names):
    with pytest.raises(CheckpointError, match="a directory without a checkpoint") as caught:
        entry(directory(names))
    assert caught.value.rule == "F001"


def test_name_in_a_directory_when_hostile_then_is_shown_escaped(directory):
    with pytest.raises(InputError) as caught:
        entry(directory(["\x1b[31m.pt", "b.pt"]))
    assert str(caught.value).isprintable()


def test_directory_when_it_cannot_be_listed_then_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"^Cannot list "):
        entry(tmp_path / "missing")


def test_entry_when_it_is_a_link_out_of_the_directory_then_is_refused(tmp_path, refusal):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"of somebody else")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    error = refusal(folder)
    assert error.rule == "F007"
    assert "'model.safetensors' is a link that leads out of it" in str(error)

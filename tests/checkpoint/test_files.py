"""The files of a checkpoint: those beside the first are opened, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifest.checkpoint import files as files_module
from manifest.checkpoint.files import Files
from manifest.errors import CheckpointError, InputError

ELSEWHERE = {
    "above": "../b",
    "absolute": "/etc/passwd",
    "in a folder": "inner/b",
    "behind a backslash": "..\\b",
    "on a drive": "C:b",
    "a stream of a file": "b:stream",
    "with a null character": "b\0",
    "not Unicode": "b\ud800",
    "nothing": "",
    "the folder": ".",
    "the folder above": "..",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(name.encode() * 3)
    return folder


@pytest.fixture
def opened(folder: Path) -> Files:
    return Files(folder / "a")


def refused(files: Files, name: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        files.beside(name)
    assert str(caught.value).endswith(".")
    assert str(caught.value).isprintable()
    return caught.value


def test_file_when_named_first_then_is_the_only_one_open(opened):
    assert [(file.name, bytes(file.mapping)) for file in opened] == [("a", b"aaa")]


def test_file_when_beside_the_first_then_is_opened_once(opened):
    assert [opened.beside(name) for name in ("b", "c", "b", "a")] == [1, 2, 1, 0]
    assert [file.name for file in opened] == ["a", "b", "c"]
    assert len(opened) == 3
    assert bytes(opened[2].mapping) == b"ccc"


def test_mapping_when_written_to_then_leaves_the_file_alone(opened, folder):
    opened[0].mapping[:] = b"xyz"
    assert (folder / "a").read_bytes() == b"aaa"


@pytest.mark.parametrize("case", ELSEWHERE)
def test_name_when_it_leads_elsewhere_then_is_refused(case, opened):
    error = refused(opened, ELSEWHERE[case])
    assert error.rule == "F007"
    assert "where the name of a file beside it was expected" in str(error)
    assert len(opened) == 1


@pytest.mark.parametrize("target", ["../outside", "/etc/hostname", "inner/file", "../../checkpoint/a/../../outside"])
def test_link_when_it_leads_out_of_the_directory_then_is_refused(target, opened, folder):
    (folder.parent / "outside").write_bytes(b"secret")
    (folder / "inner").mkdir()
    (folder / "inner" / "file").write_bytes(b"secret")
    (folder / "link").symlink_to(target)
    error = refused(opened, "link")
    assert error.rule == "F007"
    assert "a link that leads out of its directory" in str(error)


def test_link_when_it_leads_out_by_another_link_then_is_refused(opened, folder):
    (folder.parent / "outside").write_bytes(b"secret")
    (folder / "link").symlink_to("second")
    (folder / "second").symlink_to("../outside")
    assert refused(opened, "link").rule == "F007"


def test_link_when_to_a_file_beside_it_then_is_opened(opened, folder):
    (folder / "link").symlink_to("b")
    assert bytes(opened[opened.beside("link")].mapping) == b"bbb"


def test_directory_when_itself_reached_by_a_link_then_its_files_are_at_home(folder, tmp_path):
    (tmp_path / "again").symlink_to(folder)
    files = Files(tmp_path / "again" / "a")
    assert bytes(files[files.beside("b")].mapping) == b"bbb"


@pytest.mark.parametrize(
    ("target", "allowed"), [("blobs/0", True), ("other/0", False), ("blobs/x/0", False)], ids=["blobs", "other", "deep"]
)
def test_link_when_in_a_snapshot_then_may_lead_to_the_blobs_and_nowhere_else(tmp_path, target, allowed):
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "a").write_bytes(b"aaa")
    (tmp_path / target).parent.mkdir(parents=True)
    (tmp_path / target).write_bytes(b"blob")
    (snapshot / "b").symlink_to(Path("..", "..", target))
    files = Files(snapshot / "a")
    if allowed:
        assert bytes(files[files.beside("b")].mapping) == b"blob"
    else:
        assert refused(files, "b").rule == "F007"


@pytest.mark.parametrize("kind", ["missing", "a directory", "a pipe", "a dangling link", "a link to itself"])
def test_file_when_there_is_none_to_read_then_is_refused_as_missing(kind, opened, folder):
    match kind:
        case "a directory":
            (folder / "x").mkdir()
        case "a pipe":
            os.mkfifo(folder / "x")
        case "a dangling link":
            (folder / "x").symlink_to("nothing")
        case "a link to itself":
            (folder / "x").symlink_to("x")
    error = refused(opened, "x")
    assert error.rule == "F008"
    assert "names 'x', which is no readable file beside it" in str(error)


def test_file_when_empty_then_is_refused_as_no_checkpoint(opened, folder):
    (folder / "empty").write_bytes(b"")
    error = refused(opened, "empty")
    assert error.rule == "F001"
    assert str(error).startswith("of 'empty', which it names, the file is empty")


def test_name_when_longer_than_any_file_has_then_is_refused_as_missing(opened):
    assert refused(opened, "x" * 5000).rule == "F008"


def test_files_when_too_many_then_are_refused(opened, monkeypatch):
    monkeypatch.setattr(files_module, "MOST_FILES", 2)
    opened.beside("b")
    error = refused(opened, "c")
    assert error.rule == "F003"
    assert "more than 2 files" in str(error)
    assert opened.beside("b") == 1


def test_close_when_a_view_of_one_is_alive_then_frees_the_others(opened):
    opened.beside("b")
    view = memoryview(opened[0].mapping)
    opened.close()
    assert bytes(view) == b"aaa"
    assert opened[1].mapping.closed


@pytest.mark.parametrize("kind", ["missing", "a directory", "a pipe"])
def test_checkpoint_when_there_is_no_such_file_then_is_an_input_error(kind, tmp_path):
    path = tmp_path / "x"
    if kind == "a directory":
        path.mkdir()
    if kind == "a pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=r"^There is no file |^Not a regular file: "):
        Files(path)

"""`manifest show` and `manifest diff` of folders and patterns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import manifest
from manifest.schema.document import parse

Run = Callable[..., Any]


def copied(checkpoint: Path, to: Path) -> None:
    """A checkpoint with what lies beside it, under another name."""
    to.parent.mkdir(parents=True, exist_ok=True)
    for ending in ("", ".manifest.json", ".manifest.sig"):
        shutil.copy(f"{checkpoint}{ending}", f"{to}{ending}")


@pytest.fixture
def runs(signed: Path) -> Path:
    """A folder with a signed checkpoint, a deeper one, one without a manifest, and the state of an optimizer."""
    folder = signed.with_name("runs")
    copied(signed, folder / "first.pt")
    copied(signed, folder / "deep" / "second.pt")
    shutil.copy(signed, folder / "bare.pt")
    torch.save({"state": {}, "param_groups": []}, folder / "optimizer.pt")
    return folder


@pytest.fixture
def again(runs: Path) -> Path:
    """The same folder a second time, with one weight of the deeper checkpoint moved."""
    folder = runs.with_name("again")
    shutil.copytree(runs, folder)
    model: Any = manifest.load(folder / "deep" / "second.pt", verify="none")
    model.visual.transformer.resblocks[2].mlp.c_fc.weight.data[2, 3] += 0.1
    manifest.save(model, folder / "deep" / "second.pt", golden=False)
    return folder


@pytest.mark.usefixtures("runs")
def test_show_of_a_folder_is_a_line_for_each_checkpoint(run: Run) -> None:
    answer = run("show", "runs")
    assert answer.code == 0
    bare, deep, first = sorted(answer.out.splitlines())
    assert bare.split("  ")[1:] == [
        "runs/bare.pt",
        "torch-zip, 3,484,545 elements in 86 tensors (86 float32); no manifest",
    ]
    assert "runs/deep/second.pt  open_clip digits-clip (CLIP), 3,484,545 parameters; 3 trained" in deep
    assert "runs/first.pt  open_clip" in first
    assert "; names the signer " in first


@pytest.mark.usefixtures("runs")
def test_show_of_a_folder_in_json_is_a_list(run: Run) -> None:
    shown = {each["path"]: each for each in json.loads(run("show", "runs", "--format", "json").out)}
    assert set(shown) == {"runs/bare.pt", "runs/deep/second.pt", "runs/first.pt"}
    schema = json.loads(run("schema", "manifest").out)
    jsonschema.validate(shown["runs/first.pt"]["manifest"], schema)
    assert parse(json.dumps(shown["runs/first.pt"]["manifest"]).encode()).weights.parameters == 3_484_545
    assert shown["runs/bare.pt"]["contents"]["container"] == "torch-zip"


def test_show_of_a_pattern_says_what_cannot_be_shown_and_ends_with_2(runs: Path, run: Run) -> None:
    (runs / "broken.pt").write_bytes(b"PK\x03\x04 and nothing else")
    (runs / "first.pt").write_bytes(b"shorter")
    answer = run("show", "runs/*.pt")
    assert answer.code == 2
    assert "✘ runs/broken.pt  cannot be shown: broken.pt: the file does not end with a zip directory" in answer.out
    assert "✘ runs/first.pt  " in answer.out
    assert "; not these bytes: first.pt is 7 bytes long, and 13," in answer.out
    shown = json.loads(run("show", "runs/*.pt", "--format", "json").out)
    assert [each["path"] for each in shown if "error" in each] == ["runs/broken.pt"]


@pytest.mark.usefixtures("runs")
def test_show_of_several_with_tensors_lists_those_of_each(run: Run) -> None:
    assert run("show", "runs", "--tensors").out.count("\nvisual.conv1.weight ") == 3


def test_show_of_a_folder_with_one_checkpoint_is_of_that(signed: Path, run: Run) -> None:
    alone = signed.with_name("alone")
    copied(signed, alone / "ckpt.pt")
    torch.save({"state": {}, "param_groups": []}, alone / "optimizer.pt")
    assert run("show", "alone").out == run("show", "ckpt.pt").out
    assert run("show", "alone", "--format", "json").out == run("show", "ckpt.pt", "--format", "json").out
    copied(signed, signed.with_name("above") / "inner" / "ckpt.pt")
    assert run("show", "above").out == run("show", "ckpt.pt").out
    shutil.copytree(alone, signed.with_name("bare"), ignore=shutil.ignore_patterns("*.manifest.*"))
    assert "manifest    none" in run("show", "bare").out


@pytest.mark.usefixtures("again")
def test_diff_of_two_folders_pairs_checkpoints_by_their_names(run: Run) -> None:
    answer = run("diff", "runs", "again")
    assert answer.code == 1
    assert answer.out.splitlines()[:3] == [
        "✔ bare.pt  are the same",
        "✘ deep/second.pt  differ: weights (1 of 86 tensors differ, 0 gone, 0 added)  I002 tensors-changed",
        "✔ first.pt  are the same",
    ]
    assert "visual.transformer.resblocks.2.mlp.c_fc.weight; moved by" in answer.out
    assert answer.out.endswith("\n2 of 3 are the same\n")
    reports = json.loads(run("diff", "runs/**/*.pt", "again/**/*.pt", "--format", "json").out)
    assert [report["subject"] for report in reports] == ["bare.pt", "deep/second.pt", "first.pt"]
    assert run("diff", "runs/*.pt", "again/*.pt").code == 0


def test_diff_of_two_folders_says_what_is_only_in_one(again: Path, run: Run) -> None:
    (again / "bare.pt").unlink()
    (again / "deep" / "second.pt").rename(again / "second.pt")
    answer = run("diff", "runs", "again", "--quiet")
    assert answer.code == 1
    assert "✘ bare.pt  differ: files (only in runs)  F008 file-missing\n" in answer.out
    assert "✘ second.pt  differ: files (only in again)  F008 file-missing\n" in answer.out
    assert "first.pt" not in answer.out


def test_diff_of_two_folders_ends_with_2_when_a_pair_cannot_be_compared(again: Path, run: Run) -> None:
    (again / "bare.pt").write_bytes(b"PK\x03\x04 and nothing else")
    answer = run("diff", "runs", "again")
    assert answer.code == 2
    assert "✘ bare.pt  could not be checked: bare.pt: the file does not end with a zip directory" in answer.out
    assert "✘ deep/second.pt  differ: weights" in answer.out


def test_diff_of_folders_with_one_checkpoint_each_compares_these(signed: Path, run: Run) -> None:
    copied(signed, signed.with_name("one") / "first.pt")
    copied(signed, signed.with_name("other") / "second.pt")
    answer = run("diff", "one", "other")
    assert answer.code == 0
    assert answer.out.startswith("✔ first.pt → second.pt are the same\n")


@pytest.mark.usefixtures("again")
def test_diff_of_files_of_the_same_name_calls_them_by_their_paths(run: Run) -> None:
    answer = run("diff", "runs/bare.pt", "again/bare.pt")
    assert answer.out.startswith("✔ runs/bare.pt → again/bare.pt are the same\n")


def test_diff_of_a_file_and_a_folder_of_several_is_refused(signed: Path, run: Run) -> None:
    copied(signed, signed.with_name("runs") / "first.pt")
    copied(signed, signed.with_name("runs") / "second.pt")
    assert run("diff", "ckpt.pt", "runs").complaint == (
        "ckpt.pt is one checkpoint, and the other place holds several; name two checkpoints, or two folders."
    )
    assert "There is no file nothing; check the path." in run("diff", "runs", "nothing").complaint
    copied(signed, signed.with_name("alone") / "first.pt")
    assert "✘ second.pt  differ: files (only in runs)" in run("diff", "alone", "runs").out

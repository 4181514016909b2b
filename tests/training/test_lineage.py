"""What of a training goes on record beside its weights, and which checkpoint they started from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import manifest
from manifest.capture.provenance import facts_of, git_facts, parent_of
from manifest.errors import InputError
from manifest.families import creation_of
from manifest.schema.document import Provenance
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording
from tests.warm import warm_run


@pytest.mark.parametrize(
    ("extras", "epoch", "step"),
    [
        ({}, None, None),
        ({"epoch": 3, "global_step": 1200}, 3, 1200),
        ({"epoch": torch.tensor(3), "iteration": np.int64(7)}, 3, 7),
        ({"current_epoch": 0, "iter": -1}, 0, -1),
        ({"step": 5, "global_step": 9}, None, 9),
        ({"epoch": True, "step": 3.0}, None, None),
        ({"epoch": torch.tensor(True), "step": np.bool_(True)}, None, None),
        ({"epoch": torch.tensor(3.0), "step": torch.tensor([3])}, None, None),
        ({"epoch": "3", "step": None}, None, None),
        ({"epoch": 1 << 70, "step": torch.empty((), dtype=torch.int64, device="meta")}, None, None),
        ({"epoch": "three", "last_epoch": 2}, 2, None),
    ],
)
def test_epoch_and_step_are_whole_numbers_among_the_extras(
    extras: dict[str, Any], epoch: int | None, step: int | None
) -> None:
    facts = facts_of(extras, words=[])
    assert (facts.epoch, facts.step) == (epoch, step)


def test_note_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"^dataset is a list, expected a note in words; give its name and version\.$"):
        facts_of({}, dataset=["laion"])  # type: ignore[arg-type]


def test_facts_of_a_training_are_on_record_and_scrubbed(
    digits_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "/home/bob/digits.npz", "--token", "hunter2"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    note = "UCI digits, from /home/bob/data/digits-v2.npz"
    extras = {"epoch": 3, "step": 90}
    saved = manifest.save(digits_model, tmp_path / "x.pt", extras=extras, dataset=note, golden=False).provenance
    assert saved == read_manifest(tmp_path / "x.pt").provenance
    assert (saved.epoch, saved.step, saved.dataset) == (3, 90, "UCI digits, from digits-v2.npz")
    assert saved.command == ["train.py", "--data", "digits.npz", "--token", "***"]
    for secret in ("hunter2", "/home", "bob"):
        assert secret not in Sidecars(tmp_path / "x.pt").manifest.read_text()


def test_provenance_without_facts_is_written_as_it_always_was() -> None:
    old = {"pretrained": "openai", "parents": [], "git_commit": "a" * 40}
    assert Provenance.model_validate(old).model_dump(mode="json") == old


def test_manifest_of_a_file_that_exists_has_no_command(digits: Any, tmp_path: Path) -> None:
    path = tmp_path / digits.WEIGHTS.name
    path.write_bytes(digits.WEIGHTS.read_bytes())
    manifest.create(path, digits.MODEL, golden=False)
    written = json.loads(Sidecars(path).manifest.read_text())["provenance"]
    assert not {"epoch", "step", "command", "dataset"} & written.keys()


SHOW = """
from manifest.capture.provenance import command_line, git_facts

print(command_line(), git_facts(), sep="\\n")
"""


def git(place: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", *identity, *arguments], cwd=place, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository(place: Path) -> str:
    """A repository with one commit of `train.py`, and that commit."""
    place.mkdir()
    git(place, "init", "--quiet")
    (place / "train.py").write_text(SHOW)
    git(place, "add", "train.py")
    git(place, "commit", "--quiet", "-m", "first")
    return git(place, "rev-parse", "HEAD")


def python(cwd: Path, *arguments: object, **environment: str) -> list[str]:
    """What a script prints, in a process that has the libraries imported already."""
    done = warm_run(arguments, cwd, {**os.environ, **environment})
    assert done.returncode == 0, done
    return done.stdout.splitlines()


def python_anew(cwd: Path, *arguments: str) -> list[str]:
    """The same in a process of its own, where its command line is what matters."""
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_git_is_asked_about_the_script_wherever_it_runs(tmp_path: Path) -> None:
    commit = repository(tmp_path / "code")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words, facts = python(elsewhere, tmp_path / "code" / "train.py", "--lr", "3")
    assert words == str([str(tmp_path / "code" / "train.py"), "--lr", "3"])
    assert facts == f"GitFacts(commit='{commit}', dirty=False)"


def test_changed_code_is_told_from_files_that_git_does_not_follow(tmp_path: Path) -> None:
    commit = repository(tmp_path / "code")
    (tmp_path / "code" / "ckpt.pt").write_text("weights")
    assert python(tmp_path / "code", "train.py")[1] == f"GitFacts(commit='{commit}', dirty=False)"
    (tmp_path / "code" / "train.py").write_text(SHOW + "# changed\n")
    assert python(tmp_path / "code", "train.py")[1] == f"GitFacts(commit='{commit}', dirty=True)"


def test_module_is_named_as_it_was_started(tmp_path: Path) -> None:
    repository(tmp_path / "code")
    (tmp_path / "code" / "package").mkdir()
    (tmp_path / "code" / "package" / "__main__.py").write_text(SHOW)
    place = tmp_path / "code"
    assert python(place, "-m", "train", "7")[0] == str(["python", "-m", "train", "7"])
    assert python_anew(place, "-m", "package")[0] == str(["python", "-m", "package"])


def test_where_there_is_no_repository_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SHOW)
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    assert python(tmp_path, "train.py", **ceiling)[1] == "GitFacts(commit=None, dirty=None)"
    git(tmp_path, "init", "--quiet")
    assert python(tmp_path, "train.py")[1] == "GitFacts(commit=None, dirty=None)", "a repository without commits"


def test_without_git_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_facts().commit is None


def test_asking_git_runs_no_program_that_the_repository_names(tmp_path: Path) -> None:
    repository(tmp_path / "code")
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path / 'sprung'}\n")
    trap.chmod(0o755)
    git(tmp_path / "code", "config", "core.fsmonitor", str(trap))
    python(tmp_path / "code", "train.py")
    assert not (tmp_path / "sprung").exists()


def test_command_line_of_any_bytes_can_be_saved(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import manifest, torch
        manifest.save(torch.nn.Linear(2, 2), "x.pt", golden=False, family="opaque")
        """)
    )
    python_anew(tmp_path, str(script), b"--name=\xff\xfe".decode("utf-8", "surrogateescape"))
    assert read_manifest(tmp_path / "x.pt").provenance.command == ["train.py", "--name=??"]


@pytest.fixture
def saved(digits_model: Any, tmp_path: Path) -> Path:
    manifest.save(digits_model, tmp_path / "base.pt", golden=False)
    return tmp_path / "base.pt"


def test_parent_is_named_by_its_file_and_its_weights(saved: Path) -> None:
    parent = parent_of(saved)
    assert parent is not None
    assert (parent.name, parent.weights) == ("base.pt", read_manifest(saved).weights.digest)


def test_checkpoint_without_a_manifest_is_nobodys_parent(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt")
    assert parent_of(tmp_path / "x.pt") is None
    assert parent_of(tmp_path / "none.pt") is None
    assert not recwarn


def test_checkpoint_of_other_bytes_than_its_manifest_is_nobodys_parent(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-5000] ^= 1
    saved.write_bytes(data)
    with pytest.warns(
        UserWarning, match=r"^base\.pt is not what its manifest describes \(base\.pt has other bytes\), so"
    ):
        assert parent_of(saved) is None


@pytest.mark.parametrize("broken", ["", "{", '{"schema": "manifest/v9"}', "{}"])
def test_checkpoint_with_a_broken_manifest_is_nobodys_parent(broken: str, saved: Path) -> None:
    Sidecars(saved).manifest.write_text(broken)
    with pytest.warns(UserWarning, match="is not what its manifest describes"):
        assert parent_of(saved) is None


def test_checkpoint_that_went_away_is_nobodys_parent(saved: Path) -> None:
    saved.unlink()
    with pytest.warns(UserWarning, match="base.pt is not there"):
        assert parent_of(saved) is None


def parents(model: Any, path: Path) -> list[str]:
    return [parent.name for parent in manifest.save(model, path, golden=False).provenance.parents]


def test_model_made_from_a_path_names_it_as_its_parent(digits: Any, saved: Path, tmp_path: Path) -> None:
    assert parents(manifest.create_model(digits.MODEL, str(saved)), tmp_path / "x.pt") == ["base.pt"]
    assert parents(manifest.load(saved, verify="fast"), tmp_path / "y.pt") == ["base.pt"]
    fresh = manifest.create_model(digits.MODEL, str(saved), load_weights=False)
    creation = creation_of(fresh)
    assert creation is not None
    assert creation.parents == ()


def test_model_of_another_library_names_its_parent_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = manifest.create_model("test_vit", family="timm")
    manifest.save(model, tmp_path / "base.safetensors", golden=False)
    arguments = {"checkpoint_path": str(tmp_path / "base.safetensors")}
    child = manifest.create_model("test_vit", family="timm", **arguments)
    assert parents(child, tmp_path / "child.safetensors") == ["base.safetensors"]


def test_model_made_from_a_changed_file_names_no_parent(digits: Any, saved: Path, tmp_path: Path) -> None:
    state = torch.load(saved, weights_only=True)
    state["logit_scale"] += 1
    torch.save(state, saved)
    with pytest.warns(UserWarning, match="nothing tells whether this is the architecture of its weights"):
        model = manifest.create_model(digits.MODEL, str(saved))
    assert parents(model, tmp_path / "x.pt") == []


def test_recorded_save_has_the_facts_of_what_the_script_saved(digits_model: Any, tmp_path: Path) -> None:
    with recording(golden="none"):
        torch.save({"epoch": 3, "global_step": 90, "state_dict": digits_model.state_dict()}, tmp_path / "x.pt")
    saved = read_manifest(tmp_path / "x.pt").provenance
    assert (saved.epoch, saved.step) == (3, 90)
    assert saved.command

"""`audit --against` and `log --against`: what a download descends from, and kin that no record tells of."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.schema.report import Outcome
from manifest.storage.sidecars import Sidecars


def trained(model: nn.Module, part: str, seed: int) -> nn.Module:
    """The same with one part moved a little."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith(part):
                weight += 0.01 * torch.randn_like(weight)
    return model


@pytest.fixture(scope="module")
def family(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`known/base.pt` and `known/other.pt` with manifests; `down.pt`, whose vision tower was trained, without one."""
    place = tmp_path_factory.mktemp("family")
    (place / "known").mkdir()
    manifest.save(manifest.load(digits.WEIGHTS), place / "known" / "base.pt", golden=False)
    stranger = manifest.load(digits.WEIGHTS)
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in stranger.parameters():
            weight.copy_(0.05 * torch.randn_like(weight))
    manifest.save(stranger, place / "known" / "other.pt", golden=False)
    torch.save(trained(manifest.load(digits.WEIGHTS), "visual.", 0).state_dict(), place / "down.pt")
    return place


@pytest.fixture
def here(family: Path, tmp_path: Path) -> Path:
    shutil.copytree(family, tmp_path, dirs_exist_ok=True)
    return tmp_path


def kinship_of(report: manifest.Report) -> tuple[Outcome, str]:
    return next((rung.outcome, rung.reason) for rung in report.rungs if rung.name == "kinship")


def test_audit_says_what_a_download_is_a_fine_tune_of_and_what_is_untouched(here: Path) -> None:
    manifest.add_to_index(here / "kin.index", [here / "known"])
    for against, name in ((here / "known", "base.pt"), (here / "kin.index", str(here / "known" / "base.pt"))):
        outcome, reason = kinship_of(manifest.audit(here / "down.pt", against=against))
        assert outcome is Outcome.PASS
        assert reason.startswith(f"a fine-tune of {name}, or the reverse, or both of one start, apart by ")
        assert f"; its text tower, text projection, logit scale are {name}'s, untouched" in reason


@pytest.mark.usefixtures("here")
def test_audit_tells_kinship_in_every_format(run: Callable[..., Any]) -> None:
    words = "a fine-tune of base.pt, or the reverse, or both of one start, apart by"
    assert words in run("audit", "down.pt", "--against", "known").out
    data = json.loads(run("audit", "down.pt", "--against", "known", "--format", "json").out)
    assert words in data["rungs"][-1]["reason"]
    assert words in run("audit", "down.pt", "--against", "known", "--format", "html").out


def test_audit_of_weights_that_a_manifest_describes_says_so(here: Path) -> None:
    reason = kinship_of(manifest.audit(here / "known" / "base.pt", against=here / "known"))[1]
    assert re.fullmatch(r"the same weights as base\.pt \([0-9a-f]{8}\)", reason)
    shutil.copy(here / "known" / "base.pt", here / "copy.pt")
    assert kinship_of(manifest.audit(here / "copy.pt", against=here / "known"))[1] == "the same weights as base.pt"


def test_audit_says_which_was_trained_from_which_where_a_manifest_does(here: Path) -> None:
    child = trained(manifest.load(here / "known" / "base.pt"), "visual.", 1)
    manifest.save(child, here / "known" / "child.pt", golden=False)
    (here / "known" / "base.pt").rename(here / "start.pt")
    Sidecars(here / "known" / "base.pt").manifest.unlink()
    reason = kinship_of(manifest.audit(here / "start.pt", against=here / "known"))[1]
    assert reason.startswith("what child.pt was trained from, as the manifest of that records, apart by ")


def test_audit_of_a_stranger_says_that_it_has_no_relative(here: Path) -> None:
    (here / "known" / "base.pt.manifest.json").rename(here / "base.pt.manifest.json")
    outcome, reason = kinship_of(manifest.audit(here / "down.pt", against=here / "known"))
    assert (outcome, reason) == (Outcome.PASS, "no relative among 1 sets of weights")
    (here / "empty").mkdir()
    outcome, reason = kinship_of(manifest.audit(here / "down.pt", against=here / "empty"))
    assert (outcome, reason) == (Outcome.SKIP, "nothing with sketches to compare it with")


def test_audit_by_samples_tells_no_kinship(here: Path) -> None:
    outcome, reason = kinship_of(manifest.audit(here / "down.pt", fast=True, against=here / "known"))
    assert (outcome, reason) == (Outcome.SKIP, "all of the weights would have to be read, and samples were")


@pytest.mark.usefixtures("here")
def test_audit_against_what_is_no_index_cannot_be_done(run: Callable[..., Any]) -> None:
    said = run("audit", "down.pt", "--against", "down.pt").complaint
    assert said.startswith("down.pt is no index of this version (")
    assert run("audit", "down.pt", "--against", "nowhere").complaint.startswith("nowhere is no folder, expected one")


def test_audit_with_a_journal_is_done_again_where_the_manifests_are_others(here: Path, run: Callable[..., Any]) -> None:
    words = ("audit", "down.pt", "--against", "known", "--journal", "journal", "--format", "json")
    first = json.loads(run(*words).out)
    assert json.loads(run(*words).out) == first
    Sidecars(here / "known" / "base.pt").manifest.unlink()
    assert json.loads(run(*words).out)["rungs"][-1]["reason"] == "no relative among 1 sets of weights"


@pytest.mark.parametrize(("place", "said"), [("nothing", "nothing with sketches"), ("nowhere", "no folder, expected")])
def test_audit_with_a_journal_says_that_there_is_nothing_to_search(
    here: Path, run: Callable[..., Any], place: str, said: str
) -> None:
    (here / "nothing").mkdir()
    assert said in str(run("audit", "down.pt", "--against", place, "--journal", "journal"))


def test_log_shows_kin_that_no_parent_on_record_explains(
    here: Path, digits: ModuleType, run: Callable[..., Any]
) -> None:
    child = trained(manifest.load(here / "known" / "base.pt"), "visual.", 1)
    manifest.save(child, here / "known" / "child.pt", golden=False)
    (here / "known" / "down.pt").write_bytes((here / "down.pt").read_bytes())
    found = manifest.describe(here / "known" / "down.pt", digits.MODEL, golden=False)
    assert found.provenance.parents == []
    history = manifest.lineage([here / "known"], against=here / "known")
    kin = {each.generation.name: {one.name for one in each.kin} for each in history.descents}
    assert kin == {
        "base.pt": {"down.pt"},
        "child.pt": {"down.pt"},
        "down.pt": {"base.pt", "child.pt"},
        "other.pt": set(),
    }
    assert all(each.kin == () for each in manifest.lineage([here / "known"]).descents)
    answer = run("log", "known", "--against", "known")
    assert answer.code == 0
    assert answer.out.count("apart, and no manifest says so") == 4
    data = json.loads(run("log", "known", "--against", "known", "--format", "json").out)
    (entry,) = (each for each in data["checkpoints"] if each["path"].endswith("base.pt"))
    assert entry["kin"][0]["name"] == "down.pt"
    assert entry["kin"][0]["relation"] == "same-start"
    assert 0 < entry["kin"][0]["distance"] < 1


def test_log_against_a_place_with_broken_manifests_says_so(here: Path, run: Callable[..., Any]) -> None:
    (here / "old").mkdir()
    (here / "old" / "x.pt.manifest.json").write_text("{")
    answer = run("log", "known", "--against", "old")
    assert answer.code == 2
    assert "old/x.pt.manifest.json  x.pt.manifest.json is not JSON" in answer.out

"""`manifest relate --against FOLDER`: relatives among many manifests, and what is no relative."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import manifest
from manifest.kinship.answers import Relation
from manifest.schema.document import Manifest, parse
from manifest.storage.sidecars import Sidecars
from tests.kinship.making import KITS, Lab, State
from tests.kinship.test_relations import described, written

STRANGERS = 45


@pytest.fixture(scope="module")
def family(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests of a base, two that were trained from it and their average, in folders, among those of strangers."""
    torch.set_num_threads(1)
    template: Manifest = parse(Sidecars(digits.WEIGHTS).manifest.read_bytes())
    lab, place = Lab(KITS["vit"]), tmp_path_factory.mktemp("family")
    kin: list[State] = [{**each.state_dict()} for each in (lab.base, *lab.tuned[:2])]
    kin.append({name: (kin[1][name] + kin[2][name]) / 2 for name in kin[1]})
    for number, state in enumerate([*kin, *({**lab.fresh(seed).state_dict()} for seed in range(50, 50 + STRANGERS))]):
        folder = place / str(number)
        folder.mkdir()
        described(written([state], folder)[0], template)
        if number:
            (folder / "0.safetensors").unlink()
    return place


def test_relatives_are_found_among_strangers_the_nearest_first(family: Path) -> None:
    found = manifest.relatives(family / "3" / "0.safetensors.manifest.json", family)
    assert (found.searched, found.without, found.unread) == (4 + STRANGERS, 0, ())
    assert [pair.other.partition("/")[0] for pair in found.found][:1] == ["3"]
    assert {pair.other.partition("/")[0] for pair in found.found} == {"0", "1", "2", "3"}
    assert found.found[0].relation is Relation.IDENTICAL
    assert {pair.relation for pair in found.found[1:]} == {Relation.SAME_START}
    distances = [pair.distance or 0.0 for pair in found.found]
    assert distances == sorted(distances)


def test_stranger_has_no_relatives(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family, tmp_path / "others", ignore=shutil.ignore_patterns("7"))
    found = manifest.relatives(family / "7" / "0.safetensors.manifest.json", tmp_path / "others")
    assert (found.found, found.exit_code) == ((), 1)


def test_checkpoint_itself_is_searched_for_and_manifests_that_are_none_are_told(
    family: Path, tmp_path: Path, digits: ModuleType, run: Callable[..., Any]
) -> None:
    shutil.copytree(family, tmp_path / "runs")
    (tmp_path / "runs" / "broken.manifest.json").write_text("{")
    (tmp_path / "runs" / "other.manifest.json").write_text('{"weights": 3}')
    shutil.copy(Sidecars(digits.WEIGHTS).manifest, tmp_path / "runs")
    answer = run("relate", "--against", "runs", "runs/0/0.safetensors")
    assert answer.code == 0
    assert answer.out.count("✔") == 4
    assert f"4 relatives of 0.safetensors among {4 + STRANGERS} sets of weights" in answer.out
    assert "1 more have no sketches" in answer.out
    assert "not read: runs/broken.manifest.json: broken.manifest.json is not JSON" in answer.out
    data = json.loads(run("relate", "--against", "runs", "runs/0/0.safetensors", "--format", "json").out)
    assert len(data["found"]) == 4
    assert len(data["unread"]) == 2


def test_place_that_cannot_be_searched_is_told(family: Path, tmp_path: Path, run: Callable[..., Any]) -> None:
    shutil.copytree(family / "0", tmp_path / "a")
    said = run("relate", "a/0.safetensors", "--against", "nowhere").complaint
    assert said == "nowhere is no folder, expected one with manifests in it, or an index; name another."
    said = run("relate", "a/0.safetensors", "a/0.safetensors", "--against", "a").complaint
    assert said.startswith("--against is given with several checkpoints, expected one")
    (tmp_path / "empty").mkdir()
    answer = run("relate", "a/0.safetensors", "--against", "empty")
    assert (answer.code, "0 relatives of 0.safetensors among 0 sets of weights" in answer.out) == (2, True)

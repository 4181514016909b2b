"""Relations that were made for real are told, from manifests alone and from files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

import manifest
from manifest.capture.stored_weights import weights_record
from manifest.checkpoint import open_checkpoint
from manifest.kinship.answers import Relation
from manifest.schema.document import Manifest, parse, serialize
from manifest.storage.sidecars import Sidecars
from tests.kinship.making import KITS, RECIPES, Lab, State
from tests.sampling import sampled

CASES = [(kit, recipe) for recipe in RECIPES for kit in RECIPES[recipe].names]


@cache
def lab(kit: str) -> Lab:
    return Lab(KITS[kit])


@pytest.fixture(scope="module", autouse=True)
def _alone() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def template(digits: ModuleType) -> Manifest:
    return parse(Sidecars(digits.WEIGHTS).manifest.read_bytes())


def written(states: list[State], place: Path) -> list[Path]:
    files = []
    for number, state in enumerate(states):
        save_file({name: each.contiguous() for name, each in state.items()}, place / f"{number}.safetensors")
        files.append(place / f"{number}.safetensors")
    return files


def described(file: Path, template: Manifest) -> Path:
    """A manifest of a file's weights."""
    with open_checkpoint(file) as stored:
        weights = weights_record(stored, kinship=True)
    content = template.model_copy(update={"weights": weights, "components": []})
    path = file.with_name(f"{file.name}.manifest.json")
    path.write_bytes(serialize(content))
    return path


@pytest.mark.parametrize(("kit", "recipe"), sampled(CASES, 5, [f"{recipe}-{kit}" for kit, recipe in CASES]))
def test_relation_is_told(kit: str, recipe: str, template: Manifest, tmp_path: Path) -> None:
    made = RECIPES[recipe]
    files = written(made.make(lab(kit)), tmp_path)
    manifests = [described(file, template) for file in files]
    apart = [path.rename(tmp_path / f"kept.{path.name}") for path in manifests]

    alone = manifest.relate(*apart)
    assert alone.pairs[0].relation is made.told, alone.pairs[0].sentence
    found = manifest.relate(*files)
    assert found.pairs[0].relation is (made.with_files or made.told), found.pairs[0].sentence
    assert bool(alone.pairs[0].files_tell) >= (made.with_files is not None)
    for kin in (alone, found):
        if made.mix is None:
            assert kin.mix is None or recipe == "towers of two"
        else:
            assert kin.mix is not None
            assert kin.mix.relation is Relation.MIXED
            rounded = 5e-3 if "float16" in recipe else 1e-4
            assert list(kin.mix.coefficients.values()) == pytest.approx(made.mix, abs=rounded)

"""How often kinship is told wrongly: errors of distances over thousands of tensors, and pairs that are unrelated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import manifest
from manifest.checkpoint.discovering import discover
from manifest.kinship.answers import KIN, Relation
from manifest.kinship.distances import together
from manifest.kinship.index import add
from manifest.kinship.nearest import nearest_of_each
from manifest.kinship.pairs import answer, paired
from manifest.kinship.sketch import FEW, MANY
from manifest.kinship.subjects import Subject, opened
from tests.kinship.making import KITS, Lab, State
from tests.kinship.test_relations import written


@pytest.fixture(scope="module", autouse=True)
def _alone() -> None:
    torch.set_num_threads(1)


@cache
def _lab(kit: str) -> Lab:
    return Lab(KITS[kit])


def _states(kit: str, many: int) -> Iterator[State]:
    """A model along a training at rates from small to large, and others along trainings from there."""
    lab, model = _lab(kit), copy.deepcopy(_lab(kit).base)
    for number in range(many):
        yield {name: each.clone() for name, each in model.state_dict().items()}
        model = lab.train(model, first=3000 + 10 * number, steps=3, rate=10.0 ** (-5 + number % 4))


def _subjects(states: Iterator[State], place: Path) -> list[Subject]:
    """Sketches of weights; the files are not kept open."""
    found = []
    for number, state in enumerate(states):
        (place / str(number)).mkdir()
        subject = opened(written([state], place / str(number))[0])
        subject.close()
        found.append(subject)
    return found


@pytest.mark.parametrize("kit", KITS)
def test_errors_of_distances_are_within_what_is_stated(kit: str, whole: bool, tmp_path: Path) -> None:
    many = 16 if whole else 5
    states = list(_states(kit, many))
    subjects = _subjects(iter(states), tmp_path)
    errors: dict[int, list[float]] = {MANY: [], FEW: []}
    of_models = []
    for (one, a), (other, b) in combinations(zip(states, subjects, strict=True), 2):
        pair = paired(a, b)
        squares = norm = 0.0
        for name, each in pair.both.items():
            true = float((one[name].double() - other[name].double()).norm())
            squares, norm = squares + true**2, norm + float(other[name].double().norm()) ** 2
            if each.squares and each.values > each.count:
                errors[each.count].append(each.squares**0.5 / true - 1)
        found = together(pair.both.values())
        error = found.distance / (squares / norm) ** 0.5 - 1
        of_models.append((abs(error), abs(error) / found.error))
    for count, some in errors.items():
        sizes = np.abs(some)
        print(
            f"{kit}: {len(some):,} distances of tensors with {count} numbers: median error {np.median(sizes):.1%}, "
            f"99th percentile {np.quantile(sizes, 0.99):.1%}; stated: 1 standard error is {1 / np.sqrt(2 * count):.1%}"
        )
        assert np.median(sizes) < 1 / np.sqrt(2 * count)
        assert np.quantile(sizes, 0.99) < 3.5 / np.sqrt(2 * count)
    sizes, of_stated = np.array(of_models).T
    print(
        f"{kit}: {len(of_models)} distances of models: median error {np.median(sizes):.1%}, most {sizes.max():.1%}; "
        f"at most {of_stated.max():.1f} of the standard errors that are told"
    )
    assert of_stated.max() < 4


@pytest.mark.parametrize("kit", KITS)
def test_no_two_that_were_trained_from_different_seeds_are_related(kit: str, whole: bool, tmp_path: Path) -> None:
    many = 24 if whole else 6

    def strangers() -> Iterator[State]:
        for seed in range(1000, 1000 + many):
            model: nn.Module = _lab(kit).train(_lab(kit).fresh(seed), first=0, steps=6, rate=1e-3)
            yield dict(model.state_dict())

    subjects = _subjects(strangers(), tmp_path)
    answers = [answer(paired(one, other)) for one, other in combinations(subjects, 2)]
    assert len(answers) == many * (many - 1) // 2
    assert [each.sentence for each in answers if each.relation in KIN] == []
    likely = sorted(each.sureness or 0.0 for each in answers)
    print(f"{kit}: {len(answers)} unrelated pairs: alike by {likely[0]:+.1f} to {likely[-1]:+.1f} standard errors")


def test_published_packages_are_not_related_to_each_other(folders: dict[str, Path], tmp_path: Path) -> None:
    found = []
    for folder in folders.values():
        for path in discover([folder]):
            subject = opened(path)
            subject.close()
            found.append(subject)
    assert len(found) == 21
    for one, other in combinations(found, 2):
        assert answer(paired(one, other)).relation not in KIN
    for each in found:
        assert answer(paired(each, each)).relation in KIN, each.name
    add(tmp_path / "kin.index", found)
    for each, near in zip(found, nearest_of_each(found, tmp_path / "kin.index"), strict=True):
        assert [pair.relation for pair in near.found] == [Relation.IDENTICAL], each.name


def test_epochs_of_one_training_are_related_and_further_apart_the_longer_they_went(tmp_path: Path) -> None:
    lab, place = _lab("vit"), tmp_path
    model, states = copy.deepcopy(lab.base), []
    for epoch in range(4):
        lab.train(model, first=100 * epoch, steps=8)
        states.append({name: each.clone() for name, each in model.state_dict().items()})
    first, *others = written(states, place)
    distances = [pair.distance or 0.0 for pair in manifest.relate(first, *others).pairs]
    assert distances == sorted(distances)
    assert distances[0] > 0

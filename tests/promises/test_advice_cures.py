"""Every rule's advice cures: a real case raises the finding, its remedy is followed word for word, and it is gone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from manifest.schema.rules import RULES
from tests.promises.cures import (
    of_errors,
    of_files,
    of_identity,
    of_models,
    of_outputs,
    of_policies,
    of_trust,
    of_weights,
)
from tests.promises.cures.following import Bench, Cure, follow, heed, make_source

TABLES = (of_files, of_trust, of_weights, of_models, of_identity, of_outputs, of_policies)


def cures() -> Iterator[Any]:
    """Each cure with its rule's code; a function is called as its rule is, with `_when_` for one case of several."""
    codes = {rule.name.replace("-", "_"): code for code, rule in RULES.items()}
    for table in TABLES:
        for name, cure in vars(table).items():
            if (code := codes.get(name.partition("_when_")[0])) is not None:
                yield pytest.param(code, cure, id=f"{code}-{name}")


CURES = list(cures())
HEEDED = [name for name, each in vars(of_errors).items() if inspect.isgeneratorfunction(each)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def bench(source: Path, tmp_path: Path, run: Callable[..., Any], digits: ModuleType) -> Bench:
    return Bench(tmp_path, run, digits, source)


@pytest.mark.parametrize(("code", "cure"), CURES)
def test_finding_when_its_remedy_is_followed_then_is_gone(code: str, cure: Cure, bench: Bench) -> None:
    follow(cure, code, bench)


@pytest.mark.parametrize("case", HEEDED)
def test_error_when_what_it_says_is_done_then_is_not_raised_again(case: str, bench: Bench) -> None:
    heed(getattr(of_errors, case), bench)


def test_rule_when_it_is_in_the_catalogue_then_its_cure_is_in_the_table() -> None:
    known = {each.values[0] for each in CURES}
    assert [code for code in RULES if code not in known] == []

"""`constraints-lowest.txt` has the lowest version of each requirement in `pyproject.toml`, but for torch."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_lowest_versions_are_those_that_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    allowed = {}
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["models"]]):
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        allowed[requirement.name] = bound.version.split(".")
    del allowed["torch"]
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    tried = {name: version.split(".") for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    assert tried.keys() == allowed.keys()
    for name, version in tried.items():
        assert version[: len(allowed[name])] == allowed[name]
        assert set(version[len(allowed[name]) :]) <= {"0"}

"""A family from outside this package: an installed library's entry point is all that it takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.errors import ArchitectureError
from manifest.families import family
from manifest.schema.report import VerificationError

HERE = Path(__file__).parent
EXAMPLE = HERE / "example_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package as an installer lays it out: its modules, and its metadata beside them."""
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE / "bricks", site / "bricks", ignore=shutil.ignore_patterns("__pycache__"))
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    metadata = site / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return site


@pytest.fixture(scope="module")
def used(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where another process, which has the example package, has left its checkpoints."""
    place = tmp_path_factory.mktemp("used")
    path = os.pathsep.join([str(installed), str(Path(manifest.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, str(HERE / "using_bricks.py"), str(place)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place


def test_models_of_an_installed_family_are_saved_verified_loaded_and_described(used: Path) -> None:
    assert {path.name for path in used.glob("*.manifest.json")} == {
        "garden.pt.manifest.json",
        "wall.safetensors.manifest.json",
    }


def test_checkpoint_of_a_family_that_is_not_installed_here_says_so(used: Path) -> None:
    assert manifest.verify(used / "wall.safetensors", fast=True).exit_code == 0
    report = manifest.verify(used / "wall.safetensors")
    assert report.exit_code == 2
    assert [found.rule for found in report.findings() if found.severity == "error"] == ["A008"]
    with pytest.raises(ArchitectureError, match=r"No family is called 'bricks', expected one of .*open_clip"):
        family("bricks")
    with pytest.raises(VerificationError, match="No family is called 'bricks'"):
        manifest.load(used / "wall.safetensors")


def test_golden_outputs_when_the_library_is_missing_then_are_not_called_different(digits: Any, tmp_path: Path) -> None:
    path = shutil.copy(digits.WEIGHTS, tmp_path / digits.WEIGHTS.name)
    record = json.loads(digits.WEIGHTS.with_name(f"{digits.WEIGHTS.name}.manifest.json").read_bytes())
    record["architecture"]["family"] = "bricks"
    (tmp_path / f"{digits.WEIGHTS.name}.manifest.json").write_text(json.dumps(record), encoding="utf-8")
    report = manifest.verify(path)
    assert report.exit_code == 2
    assert [found.rule for found in report.findings() if found.severity == "error"] == ["A008"]
    assert (report.rungs[-1].outcome, report.rungs[-1].reason) == ("skip", "not run: the model cannot be built")

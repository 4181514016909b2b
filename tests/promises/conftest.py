"""The checkpoints that the tables on policies and stale manifests begin with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.promises.policy_files import Place, made_in


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_in(tmp_path_factory.getbasetemp())


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return Place(tmp_path)

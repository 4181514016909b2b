"""What several rooms of tests share: the trained digits CLIP, whose answers mean something, and published packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def digits() -> ModuleType:
    """`fixtures/digits_clip/evaluate.py`, with its model registered."""
    module = _script("digits_clip_evaluate", _FIXTURES / "digits_clip" / "evaluate.py")
    module.register_model()
    return module


@pytest.fixture(scope="session")
def packages() -> ModuleType:
    """`fixtures/packages.py`."""
    return _script("fixtures_packages", _FIXTURES / "packages.py")


@pytest.fixture
def digits_model(digits: ModuleType) -> Any:
    """The trained model, loaded anew."""
    import manifest

    return manifest.load(digits.WEIGHTS, verify="none")


@pytest.fixture
def accuracy(digits: ModuleType) -> Any:
    """Zero-shot accuracy of a model on the held-out digits."""
    import open_clip

    tokenizer = open_clip.get_tokenizer(digits.MODEL)
    return lambda model: digits.zero_shot_accuracy(model, digits.preprocessing(model), tokenizer)


def _script(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""Names and shapes of the libraries' own models, built without weights, each once."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

Shapes = Mapping[str, tuple[int, ...]]


@pytest.fixture(scope="session")
def generator() -> ModuleType:
    """`fixtures/index.py`."""
    path = Path(__file__).parents[2] / "fixtures" / "index.py"
    spec = importlib.util.spec_from_file_location("fixtures_index", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for the module that they are of
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def state(generator: ModuleType) -> Callable[[str, str], Shapes]:
    """Shape by name of a model's tensors, as the library makes it."""

    @cache
    def of(library: str, name: str) -> Shapes:
        logging.disable(logging.WARNING)  # open_clip warns of every model without weights
        try:
            shapes: Shapes = generator.model(library, name).shapes
        finally:
            logging.disable(logging.NOTSET)
        return shapes

    return of

"""One thread for all of this room: its models are so small that more only wait for each other."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# Under pytest's importlib mode, a module beside the tests is not found by its name.
_SPEC = importlib.util.spec_from_file_location("training_models", Path(__file__).with_name("training_models.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
sys.modules[_SPEC.name] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules[_SPEC.name])


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

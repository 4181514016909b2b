"""`--whole` sweeps every model of every family; without it, a stated sample of the largest."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="sweep every model of every family")

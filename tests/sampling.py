"""Which cases of a test an ordinary run does: a sample; `--whole` does all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sampled(cases: Iterable[Any], every: int, ids: Iterable[str] | None = None) -> list[Any]:
    """Cases for `parametrize`, of which an ordinary run does the first of each so many.

    Args:
        cases: All of them; a tuple is the values of several arguments.
        every: Of how many cases one is done.
        ids: What they are called.
    """
    cases = list(cases)
    names = [None] * len(cases) if ids is None else list(ids)
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), id=name, marks=pytest.mark.whole if place % every else ()
        )
        for place, (case, name) in enumerate(zip(cases, names, strict=True))
    ]

"""Whether a difference is that of rounding to a shorter type, told from how large it is.

A value with `p` digits behind the first is rounded by up to half of the last, so its square is changed by 2^-2p/12 of
that of its power of two on average, which is between a quarter and the whole of its own square.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from manifest.kinship.distances import Compared, together

_DIGITS = {"bfloat16": 7, "float16": 10}
_SMALLEST_HALF = 2.0**-24
_SURE = 3.5
"""Standard errors of a distance that is still explained."""
_FEWEST = 2
"""Tensors that were rounded, for a type to be told by sizes alone."""


def limits(dtype: str, values: int, norm: float) -> tuple[float, float]:
    """Least and greatest squared distance, on average, of a tensor from itself in a shorter type."""
    step = 4.0 ** -_DIGITS[dtype] / 12 * norm**2
    smallest = values * _SMALLEST_HALF**2 / 12 if dtype == "float16" else 0.0
    return step / 4, step + smallest


def rounded_to(changed: Sequence[Compared]) -> str | None:
    """The type that all of some tensors were rounded to, if that explains how far they are apart.

    Values that have few digits are not moved by rounding, so a tensor may be nearer than the least distance.
    """
    known = [each for each in changed if each.squares is not None and each.one.sketch and each.other.sketch]
    if len(known) != len(changed) or not known:
        return None
    for dtype in _DIGITS:
        if all(_explained(each, dtype) for each in known) and _in_all(known, dtype):
            return dtype
    return None


def _explained(each: Compared, dtype: str) -> bool:
    assert each.squares is not None
    assert each.other.sketch is not None
    _, most = limits(dtype, each.values, each.other.sketch.norm)
    # The largest value of a few may be anywhere between two of the type's.
    room = 3.0 if each.values <= 64 else 1 + _SURE * each.error
    return each.squares <= most * room


def _in_all(known: Sequence[Compared], dtype: str) -> bool:
    """Whether they are as far as rounding moves most numbers, and in enough tensors."""
    rounded = [each for each in known if each.squares and each.values > 64]
    if len(rounded) < _FEWEST:
        return False
    low = high = 0.0
    for each in rounded:
        assert each.other.sketch is not None
        least, most = limits(dtype, each.values, each.other.sketch.norm)
        low, high = low + least, high + most
    squares = math.fsum(each.squares or 0.0 for each in rounded)
    error = 2 * together(rounded).error
    # Some tensors may have few digits, as ones have, and all of the norm.
    return low * (1 - _SURE * error) <= squares <= high * (1 + _SURE * error)

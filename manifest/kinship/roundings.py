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
_FEW_VALUES, _ROOM_OF_FEW = 64, 3.0
"""Of a tensor so small, whose values may all lie where rounding moves them most."""
_USUAL, _ROOM = 0.48, 0.2
"""Of the greatest squared distance: what rounding makes of normal numbers, and how far others are from that."""


def limits(dtype: str, values: int, norm: float) -> tuple[float, float]:
    """Least and greatest squared distance, on average, of a tensor from itself in a shorter type."""
    step = 4.0 ** -_DIGITS[dtype] / 12 * norm**2
    smallest = values * _SMALLEST_HALF**2 / 12 if dtype == "float16" else 0.0
    return step / 4, step + smallest


def rounded_to(changed: Sequence[Compared]) -> str | None:
    """The type that all of some tensors were rounded to, if that explains how far they are apart.

    Every matrix must be as far as rounding moves it, and all together as far as it usually does. A vector may be
    nearer, for its values may have few digits, as ones have.
    """
    known = [each for each in changed if each.squares is not None and each.one.sketch and each.other.sketch]
    matrices = [each for each in known if each.likeness is not None]
    if len(known) != len(changed) or not matrices:
        return None
    for dtype in _DIGITS:
        if all(_explained(each, dtype) for each in known) and _usual(matrices, dtype):
            return dtype
    return None


def _explained(each: Compared, dtype: str) -> bool:
    assert each.squares is not None
    assert each.other.sketch is not None
    least, most = limits(dtype, each.values, each.other.sketch.norm)
    if each.values <= _FEW_VALUES:
        return each.squares <= _ROOM_OF_FEW * most
    near_enough = each.squares <= most * (1 + _SURE * each.error)
    return near_enough and (each.likeness is None or each.squares >= least * (1 - _SURE * each.error))


def _usual(matrices: Sequence[Compared], dtype: str) -> bool:
    """Whether matrices are together as far as rounding usually moves them."""
    usual = 0.0
    for each in matrices:
        assert each.other.sketch is not None
        least, most = limits(dtype, each.values, each.other.sketch.norm)
        usual += _USUAL * 4 * least + (most - 4 * least)
    squares = math.fsum(each.squares or 0.0 for each in matrices)
    return abs(squares / usual - 1) <= _ROOM + _SURE * 2 * together(matrices).error

"""How far tensors are apart and how alike they are, from their sketches, with the error of both.

An estimated distance has a relative standard error of 1/√(2·K) where a sketch has K numbers; of a tensor with no more
values than numbers it is exact. What sketches cannot tell apart from equal is within `_ROUNDING` of the norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from manifest.kinship.sketch import Numbers, numbers_of, numbers_of_ones, relative_variance
from manifest.kinship.subjects import Tensor

ROUNDING = 1e-6
"""Of the norm: what sums in float32 and numbers in float32 can differ by."""
_FEWEST_VALUES = 1_024
"""Of a matrix whose likeness says something."""
_MOST_VALUES = 1 << 36
"""Of a tensor whose mean is taken off; a manifest may claim any size."""


@dataclass(frozen=True)
class Compared:
    """One tensor in two sets of weights.

    Attributes:
        one: As the first has it.
        other: As the second has it.
        same: Whether it is the same, byte for byte or as far as sketches tell.
        squares: The squared distance; None where one of them has no sketch.
    """

    one: Tensor
    other: Tensor
    same: bool
    squares: float | None

    @cached_property
    def likeness(self) -> float | None:
        """The cosine of the two, their means taken off; None where that says nothing."""
        if self.squares is None or not is_telling(self.one):
            return None
        a = centred(self.one)
        if self.one.digest == self.other.digest:
            return 1.0 if a.any() else None
        b = centred(self.other)
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / lengths if lengths else None

    @property
    def relative(self) -> float:
        """Distance over the norm in the second; infinite from zeros."""
        if self.squares is None or self.other.sketch is None:
            return math.nan
        if self.squares == 0:
            return 0.0
        return math.sqrt(self.squares) / self.other.sketch.norm if self.other.sketch.norm else math.inf

    @property
    def count(self) -> int:
        """Numbers of a sketch of it."""
        return numbers_of(self.values)

    @property
    def values(self) -> int:
        return math.prod(self.one.shape)

    @property
    def error(self) -> float:
        """Relative standard error of the squared distance."""
        return math.sqrt(relative_variance(self.values))


def compared(one: Tensor, other: Tensor) -> Compared:
    """Two tensors of one shape."""
    if one.digest == other.digest:
        return Compared(one, other, True, 0.0)
    if one.sketch is None or other.sketch is None:
        return Compared(one, other, False, None)
    difference = one.sketch.numbers - other.sketch.numbers
    squares = float(difference @ difference)
    norm = max(one.sketch.norm, other.sketch.norm)
    if squares <= (ROUNDING * norm) ** 2 and abs(one.sketch.norm - other.sketch.norm) <= ROUNDING * norm:
        squares = 0.0
    return Compared(one, other, squares == 0, squares)


def is_telling(tensor: Tensor) -> bool:
    """Whether likeness of a tensor is a sign of kinship: it is a matrix with enough values, begun at random."""
    return tensor.is_matrix and tensor.sketch is not None and math.prod(tensor.shape) >= _FEWEST_VALUES


def centred(tensor: Tensor) -> Numbers:
    """The numbers of a tensor as they would be about its mean, which is no sign of kinship; zeros of a constant one."""
    assert tensor.sketch is not None
    numbers = tensor.sketch.numbers
    if (values := math.prod(tensor.shape)) > _MOST_VALUES:
        return numbers
    ones = numbers_of_ones(values)
    centred: Numbers = numbers - (numbers @ ones) / (ones @ ones) * ones
    if np.linalg.norm(centred) <= 10 * ROUNDING * np.linalg.norm(numbers):
        return np.zeros_like(numbers)
    return centred


@dataclass(frozen=True)
class Together:
    """Several tensors as one.

    Attributes:
        distance: Relative, over the norm in the second.
        error: Its relative standard error.
        likeness: The mean cosine of matrices; None where there are none.
        sureness: By how many standard errors of unrelated matrices it is more than theirs, which is zero.
    """

    distance: float
    error: float
    likeness: float | None
    sureness: float


def together(parts: Iterable[Compared]) -> Together:
    """Several tensors as one; those without sketches are left out."""
    each_part = list(parts)
    distance, error = distance_of(each_part)
    likeness, sureness = _likenesses([(part.likeness, part.count) for part in each_part if part.likeness is not None])
    return Together(distance, error, likeness, sureness)


def distance_of(parts: Iterable[Compared]) -> tuple[float, float]:
    """The relative distance of several tensors as one, and its relative standard error."""
    known = [each for each in parts if each.squares is not None]
    squares = math.fsum(each.squares or 0.0 for each in known)
    norm = math.fsum(each.other.sketch.norm**2 for each in known if each.other.sketch is not None)
    spread = math.fsum(((each.squares or 0.0) * each.error) ** 2 for each in known)
    distance = 0.0 if squares == 0 else math.sqrt(squares / norm) if norm else math.inf
    return distance, math.sqrt(spread) / squares / 2 if squares else 0.0


def _likenesses(found: Sequence[tuple[float, int]]) -> tuple[float | None, float]:
    if not found:
        return None, 0.0
    sure = sum(cosine * math.sqrt(count - 1) for cosine, count in found) / math.sqrt(len(found))
    return sum(cosine for cosine, _ in found) / len(found), sure

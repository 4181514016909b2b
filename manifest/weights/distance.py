"""How far the values of a tensor in one file are from those in another, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manifest.checkpoint import Checkpoint, StoredTensor
from manifest.initialisation.values import Floats, numbers


@dataclass(frozen=True)
class Moved:
    """A tensor, or several, and how far they are from what they were.

    Attributes:
        squares: The sum of squared differences.
        norm: The sum of squares of what they were.
        variance: Of `squares`, where it is estimated.
    """

    squares: float
    norm: float
    variance: float = 0.0

    @property
    def relative(self) -> float:
        """Relative L2 distance; infinite from zeros, and NaN where a value is none."""
        if self.squares == 0:
            return 0.0
        return math.sqrt(self.squares / self.norm) if self.norm else math.inf

    @property
    def error(self) -> float:
        """Relative standard error of the distance; zero where it was measured."""
        return math.sqrt(self.variance) / self.squares / 2 if self.variance else 0.0

    @classmethod
    def together(cls, parts: Sequence[Moved]) -> Moved:
        """Several tensors as one."""
        return cls(
            math.fsum(part.squares for part in parts),
            math.fsum(part.norm for part in parts),
            math.fsum(part.variance for part in parts),
        )


def moved(one: Checkpoint, then: StoredTensor, other: Checkpoint, now: StoredTensor) -> Moved | None:
    """How far a tensor moved from one file to the other, whatever types it is stored in; None where that says nothing.

    Args:
        one: The file that it was in.
        then: The tensor there.
        other: The file that it is in now.
        now: The tensor there.
    """
    if tuple(then.shape) != tuple(now.shape) or not then.numel:
        return None
    before, after = numbers(one, then), numbers(other, now)
    if before is None or after is None:
        return None
    squares = norm = 0.0
    for was, became in _side_by_side(before, after):
        difference = became - was
        squares += float(difference @ difference)
        norm += float(was @ was)
    return Moved(squares, norm)


def _side_by_side(before: Iterator[Floats], after: Iterator[Floats]) -> Iterator[tuple[Floats, Floats]]:
    """Two sequences of pieces, cut alike."""
    one, other = next(before, None), next(after, None)
    while one is not None and other is not None:
        count = min(one.size, other.size)
        yield one[:count], other[:count]
        one = one[count:] if count < one.size else next(before, None)
        other = other[count:] if count < other.size else next(after, None)

"""Comparing golden outputs in three grades: exact, equivalent, different.

There is no guessed tolerance. Two outputs are equivalent when they are no further apart than a small multiple of how
far the model was seen to move when only the arithmetic changed, and never asked to agree better than float32 can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manifest.document import Golden, Output
from manifest.golden.sketch import distance

MULTIPLE = 4.0
"""How many floors apart two outputs may be: another machine adds up in another order than this one tried."""

FLOAT32_EPSILON = 2.0**-23


class Grade(StrEnum):
    EXACT = "exact"
    EQUIVALENT = "equivalent"
    DIFFERENT = "different"


@dataclass(frozen=True)
class Comparison:
    """How one output compares with its record.

    Attributes:
        output: Its name.
        grade: Exact, equivalent or different.
        distance: Estimated relative L2 distance; 0 when exact.
        tolerance: The greatest relative distance that is graded equivalent.
        absolute: Estimated L2 distance.
    """

    output: str
    grade: Grade
    distance: float
    tolerance: float
    absolute: float


def tolerance(golden: Golden) -> float:
    """The greatest relative distance that arithmetic explains: a multiple of the recorded floor."""
    return MULTIPLE * max([FLOAT32_EPSILON, *golden.floor.values()])


def compare(golden: Golden, found: Mapping[str, Output], *, brief: bool = False) -> list[Comparison]:
    """Compare each recorded output with what was found now, for the whole probe or for its first samples alone."""
    allowed = tolerance(golden)
    recorded = golden.brief if brief else golden.outputs
    return [_compare(name, output, found.get(name), allowed) for name, output in recorded.items()]


def worst_of(comparisons: Sequence[Comparison]) -> Comparison:
    """The one of the worst grade, and of these the one that is furthest off."""
    return max(comparisons, key=lambda item: (item.grade is Grade.DIFFERENT, item.distance))


def _compare(name: str, recorded: Output, found: Output | None, allowed: float) -> Comparison:
    if found is not None and found.digest == recorded.digest:
        return Comparison(name, Grade.EXACT, 0.0, allowed, 0.0)
    if found is None or found.shape != recorded.shape or len(found.sketch) != len(recorded.sketch):
        return Comparison(name, Grade.DIFFERENT, 1.0, allowed, recorded.norm)
    absolute = distance(recorded.sketch, found.sketch)
    relative = absolute / recorded.norm if recorded.norm else absolute
    grade = Grade.EQUIVALENT if relative <= allowed else Grade.DIFFERENT
    return Comparison(name, grade, relative, allowed, absolute)

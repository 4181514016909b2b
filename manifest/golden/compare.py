"""Comparing golden outputs in three grades: exact, equivalent, different.

There is no guessed tolerance. Two outputs are equivalent when they are no further apart than a small multiple of how
far the model was seen to move when only the arithmetic changed, and never asked to agree better than float32 can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manifest.document import Golden, Output, Reading
from manifest.golden.objects import RESOLUTION, match
from manifest.golden.sketch import distance

MULTIPLE = 4.0
"""How many floors apart two outputs may be: another machine adds up in another order than this one tried."""

OBJECTS = "objects"
"""The output, and the part of the floor, that is what detectors found."""

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


def tolerance(golden: Golden, here: Mapping[str, float] | None = None) -> float:
    """The greatest relative distance that arithmetic explains: a multiple of the floor.

    Args:
        golden: The record, with the floor where it was saved.
        here: The floor here, where it was measured too.
    """
    floors = [value for floor in (golden.floor, here or {}) for name, value in floor.items() if name != OBJECTS]
    return MULTIPLE * max([FLOAT32_EPSILON, *floors])


def compare(
    golden: Golden,
    found: Mapping[str, Output],
    readings: Sequence[Reading] = (),
    *,
    here: Mapping[str, float] | None = None,
    brief: bool = False,
) -> list[Comparison]:
    """Compare each recorded output with what was found now.

    Args:
        golden: The record.
        found: The outputs now.
        readings: What is read off them, where that may be objects.
        here: The floor here, where it was measured too.
        brief: Compare for the first samples alone, instead of the whole probe.
    """
    allowed = tolerance(golden, here)
    recorded = golden.brief if brief else golden.outputs
    comparisons = [_compare(name, output, found.get(name), allowed) for name, output in recorded.items()]
    if not brief and any(reading.objects for reading in (*golden.reading, *readings)):
        floor = max(RESOLUTION, golden.floor.get(OBJECTS, 0.0), (here or {}).get(OBJECTS, 0.0))
        comparisons.append(_compare_objects(golden.reading, readings, max(allowed, MULTIPLE * floor)))
    return comparisons


def agreement(comparisons: Sequence[Comparison]) -> str:
    """How well outputs agree that do, in words."""
    item = worst_of(comparisons)
    if all(each.grade is Grade.EXACT for each in comparisons):
        return "exact: every output has the recorded digest"
    return (
        f"equivalent: {item.output} within {item.distance:.1e} of the record, arithmetic explains {item.tolerance:.1e}"
    )


def _compare_objects(recorded: Sequence[Reading], found: Sequence[Reading], allowed: float) -> Comparison:
    """Objects go by what is written of them, which is coarser than the arithmetic that made them."""
    matching = match(recorded, found)
    grade = Grade.EXACT if matching.distance == 0 else Grade.EQUIVALENT
    if matching.distance > allowed:
        grade = Grade.DIFFERENT
    return Comparison("objects", grade, matching.distance, allowed, matching.distance)


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

"""Comparing golden outputs in four grades: exact, equivalent, uncertain, different.

There is no guessed tolerance. Two outputs are equivalent when they are no further apart than a small multiple of how
far the model was seen to move when only the arithmetic changed, and never asked to agree better than float32 can.
Arithmetic that could move them as far as a wrong architecture does explains nothing: then the grade is uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from manifest.golden.detections import OBJECTS, RESOLUTION, match
from manifest.golden.plausible import BELIEVABLE
from manifest.golden.sketch import distance
from manifest.schema.document import Golden, Output, Reading

MULTIPLE = 4.0
"""How many floors apart two outputs may be: another machine adds up in another order than this one tried."""

WIDEST = 16.0
"""How many times the allowance on record another machine's own floor may give: instruction sets that were tried differ
by less than four times."""

FLOAT32_EPSILON = 2.0**-23

COARSE = 1e-4
"""An allowance from which wrong architectures are asked too: no longer far below what they give."""

SHARE_OF_CONTRAST = 0.5
"""Arithmetic that explains this share of what a wrong architecture does no longer tells the two apart."""

MOST_OF_OBJECTS = 0.25
"""Objects that are further apart than this are other objects, whatever moved them."""


class Grade(StrEnum):
    EXACT = "exact"
    EQUIVALENT = "equivalent"
    UNCERTAIN = "uncertain"
    DIFFERENT = "different"


_WORSE = tuple(Grade)


@dataclass(frozen=True)
class Allowance:
    """How far apart two outputs may be.

    Attributes:
        equivalent: The greatest distance that arithmetic explains and a wrong model does not.
        explained: The greatest distance that arithmetic explains, which may reach what a wrong model gives.
    """

    equivalent: float
    explained: float

    def grade(self, distance: float) -> Grade:
        if distance <= self.equivalent:
            return Grade.EQUIVALENT
        return Grade.UNCERTAIN if distance <= self.explained else Grade.DIFFERENT


@dataclass(frozen=True)
class Comparison:
    """How one output compares with its record.

    Attributes:
        output: Its name.
        grade: Exact, equivalent, uncertain or different.
        distance: Estimated relative L2 distance; 0 when exact.
        tolerance: The greatest relative distance that is graded equivalent.
        absolute: Estimated L2 distance.
    """

    output: str
    grade: Grade
    distance: float
    tolerance: float
    absolute: float


def tolerance(
    golden: Golden,
    here: Mapping[str, float] | None = None,
    *,
    contrast: Mapping[str, float] | None = None,
    device: str = "cpu",
    across: bool = False,
) -> Allowance:
    """How far apart outputs may be: a multiple of the floor, that stays clear of what a wrong architecture gives.

    Args:
        golden: The record, with the floor where it was saved.
        here: The floor here, where it was measured too.
        contrast: What wrong architectures give for the whole probe, where that was asked.
        device: Where the outputs were computed: what an accelerator moves says nothing of a processor.
        across: Whether the floor here is of another precision than the record's, by which the latter does not bound it.
    """
    floors = [value for name, value in golden.floor.items() if name != OBJECTS and _is_of(name, device)]
    recorded = MULTIPLE * _greatest([FLOAT32_EPSILON, *floors])
    now = MULTIPLE * _greatest([0.0, *(value for name, value in (here or {}).items() if name != OBJECTS)])
    wrong = [*golden.contrast.values(), *(contrast or {}).values()]
    bounds = [bound for value in wrong if (bound := SHARE_OF_CONTRAST * value) > _LEAST]
    if not across:
        bounds.append(WIDEST * recorded if floors else BELIEVABLE.get(golden.precision, 1.0))
    explained = max(recorded, now)
    return Allowance(max(_LEAST, min([explained, *bounds])), explained)


_LEAST = MULTIPLE * FLOAT32_EPSILON


def _tolerance_of_objects(golden: Golden, here: Mapping[str, float], outputs: Allowance) -> Allowance:
    recorded = max(outputs.equivalent, MULTIPLE * _greatest([RESOLUTION, golden.floor.get(OBJECTS, 0.0)]))
    explained = max(recorded, MULTIPLE * here.get(OBJECTS, 0.0))
    return Allowance(min(explained, WIDEST * recorded, MOST_OF_OBJECTS), explained)


def _greatest(values: Sequence[float]) -> float:
    return max(math.inf if math.isnan(value) else value for value in values)


def _is_of(name: str, device: str) -> bool:
    return device != "cpu" or not name.startswith("cuda")


def compare(
    golden: Golden,
    found: Mapping[str, Output],
    readings: Sequence[Reading] = (),
    *,
    here: Mapping[str, float] | None = None,
    brief: bool = False,
    contrast: Mapping[str, float] | None = None,
    device: str = "cpu",
    across: bool = False,
) -> list[Comparison]:
    """Compare each recorded output with what was found now.

    Args:
        golden: The record.
        found: The outputs now.
        readings: What is read off them, where that may be objects.
        here: The floor here, where it was measured too.
        brief: Compare for the first samples alone, instead of the whole probe.
        contrast: What wrong architectures give for the whole probe, where that was asked.
        device: Where they were found.
        across: Whether the floor here is of another precision than the record's.
    """
    allowed = tolerance(golden, here, contrast=contrast, device=device, across=across)
    recorded = golden.brief if brief else golden.outputs
    comparisons = [_compare(name, output, found.get(name), allowed) for name, output in recorded.items()]
    if not brief and any(reading.objects for reading in (*golden.reading, *readings)):
        allowed = _tolerance_of_objects(golden, here or {}, allowed)
        comparisons.append(_compare_objects(golden.reading, readings, allowed))
    return comparisons


def agreement(comparisons: Sequence[Comparison]) -> str:
    """How well outputs agree that do, in words."""
    item = worst_of(comparisons)
    if all(each.grade is Grade.EXACT for each in comparisons):
        return "exact: every output has the recorded digest"
    return (
        f"equivalent: {item.output} within {item.distance:.1e} of the record, arithmetic explains {item.tolerance:.1e}"
    )


def _compare_objects(recorded: Sequence[Reading], found: Sequence[Reading], allowed: Allowance) -> Comparison:
    """Objects go by what is written of them, which is coarser than the arithmetic that made them."""
    matching = match(recorded, found)
    grade = Grade.EXACT if matching.distance == 0 else allowed.grade(matching.distance)
    return Comparison(OBJECTS, grade, matching.distance, allowed.equivalent, matching.distance)


def worst_of(comparisons: Sequence[Comparison]) -> Comparison:
    """The one of the worst grade, and of these the one that is furthest off."""
    return max(comparisons, key=lambda item: (_WORSE.index(item.grade), item.distance))


def agree(comparisons: Sequence[Comparison]) -> bool:
    """Whether every output is that on record, as far as arithmetic lets one tell."""
    return worst_of(comparisons).grade in (Grade.EXACT, Grade.EQUIVALENT)


def _compare(name: str, recorded: Output, found: Output | None, allowed: Allowance) -> Comparison:
    if found is not None and found.digest == recorded.digest:
        return Comparison(name, Grade.EXACT, 0.0, allowed.equivalent, 0.0)
    if found is None or found.shape != recorded.shape or len(found.sketch) != len(recorded.sketch):
        return Comparison(name, Grade.DIFFERENT, 1.0, allowed.equivalent, recorded.norm)
    absolute = distance(recorded.sketch, found.sketch)
    # A norm on record that is too great would make everything near.
    norm = min(recorded.norm, found.norm) or max(recorded.norm, found.norm)
    relative = absolute / norm if norm else absolute
    return Comparison(name, allowed.grade(relative), relative, allowed.equivalent, absolute)

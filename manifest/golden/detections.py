"""Comparing what detectors found: boxes are matched by class and overlap, since their number and order may change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from manifest.schema.document import Found, Reading

OBJECTS = "objects"
"""The output, and the part of the floor, that is what detectors found."""
LEAST_OVERLAP = 0.5
"""Intersection over union from which two boxes of a class are of the same object, as in PASCAL VOC."""
RESOLUTION = 1e-5
"""How finely scores and boxes are written down."""


@dataclass(frozen=True)
class Matching:
    """How the objects found now match those on record.

    Attributes:
        recorded: How many are on record.
        unmatched: How many of these, and of those found now, have no counterpart.
        overlap: Least intersection over union of two that match.
        score: Greatest difference between their scores.
    """

    recorded: int
    unmatched: int
    overlap: float
    score: float

    @property
    def distance(self) -> float:
        """One number for how far apart they are: 0 when they are the same."""
        return max(1 - self.overlap, self.score, self.unmatched / max(1, self.recorded))


def match(recorded: Sequence[Reading], found: Sequence[Reading]) -> Matching:
    """Match the objects of each image, the likeliest first, each with the one that overlaps it most.

    Args:
        recorded: The readings on record.
        found: The readings now, of the same images.
    """
    now = {reading.image: list(reading.objects) for reading in found}
    count = unmatched = 0
    overlap, score = 1.0, 0.0
    for reading in recorded:
        left = now.get(reading.image, [])
        for item in reading.objects:
            count += 1
            same = [other for other in left if other.label == item.label]
            best = max(same, key=lambda other: intersection_over_union(item, other), default=None)
            if best is None or intersection_over_union(item, best) < LEAST_OVERLAP:
                unmatched += 1
                continue
            left.remove(best)
            overlap = min(overlap, intersection_over_union(item, best))
            score = max(score, abs(item.score - best.score))
        unmatched += len(left)
    return Matching(count, unmatched, overlap, score)


def intersection_over_union(one: Found, other: Found) -> float:
    """Of two boxes, 0 to 1."""
    width = min(one.box[2], other.box[2]) - max(one.box[0], other.box[0])
    height = min(one.box[3], other.box[3]) - max(one.box[1], other.box[1])
    if width <= 0 or height <= 0:
        return 1.0 if one.box == other.box else 0.0
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one.box, other.box)]
    return shared / (sum(areas) - shared)

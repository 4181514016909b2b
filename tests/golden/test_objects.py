"""Boxes of detectors are matched by class and overlap; number and order may change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from manifest.golden.detections import intersection_over_union, match
from manifest.schema.document import Found, Reading

sides = st.floats(0, 200, allow_nan=False)
boxes = st.tuples(sides, sides, st.floats(1, 50), st.floats(1, 50)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)
objects = st.builds(Found, label=st.sampled_from(["cat", "dog"]), score=st.floats(0.05, 1), box=boxes)


def reading(*found: Found, image: str = "street") -> Reading:
    return Reading(image=image, objects=list(found))


CAT = Found(label="cat", score=0.9, box=[0, 0, 10, 10])
DOG = Found(label="dog", score=0.8, box=[50, 50, 90, 90])


@given(st.lists(objects, max_size=6))
def test_the_same_objects_are_no_distance_apart_in_any_order(found: list[Found]) -> None:
    distinct = [a for i, a in enumerate(found) if all(intersection_over_union(a, b) < 0.5 for b in found[:i])]
    matching = match([reading(*distinct)], [reading(*reversed(distinct))])
    assert (matching.distance, matching.unmatched, matching.recorded) == (0, 0, len(distinct))


@given(objects, objects)
def test_overlap_is_symmetric_and_whole_with_itself(one: Found, other: Found) -> None:
    assert intersection_over_union(one, other) == intersection_over_union(other, one)
    assert 0 <= intersection_over_union(one, other) <= 1
    assert intersection_over_union(one, one) == 1


def test_a_moved_box_counts_by_its_overlap_and_a_score_by_its_difference() -> None:
    moved = CAT.model_copy(update={"box": [0, 0, 10, 9], "score": 0.85})
    matching = match([reading(CAT, DOG)], [reading(DOG, moved)])
    assert (matching.unmatched, round(matching.overlap, 6), round(matching.score, 6)) == (0, 0.9, 0.05)
    assert round(matching.distance, 6) == 0.1


def test_a_lost_object_one_of_another_class_and_one_too_many_are_unmatched() -> None:
    assert match([reading(CAT, DOG)], [reading(CAT)]).unmatched == 1
    assert match([reading(CAT)], [reading(CAT.model_copy(update={"label": "dog"}))]).unmatched == 2
    assert match([reading(CAT)], [reading(CAT, DOG)]).unmatched == 1
    assert match([reading(CAT, image="a")], [reading(CAT, image="b")]).unmatched == 1


def test_boxes_without_area_overlap_with_themselves_alone() -> None:
    point = CAT.model_copy(update={"box": [5, 5, 5, 5]})
    assert intersection_over_union(point, point) == 1
    assert intersection_over_union(point, CAT) == 0

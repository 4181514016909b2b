"""Three grades, and no tolerance that was guessed."""

from __future__ import annotations

import numpy as np
import pytest

from manifest.golden.compare import FLOAT32_EPSILON, MULTIPLE, Grade, compare, tolerance
from manifest.golden.sketch import sketch
from manifest.schema.document import Golden, Output

PROBE = "photos-and-prompts/1"
ONE = np.random.default_rng(0).standard_normal(2048)


def output(values: np.ndarray, digit: str) -> Output:
    return Output(
        shape=list(values.shape),
        dtype="float32",
        digest=f"blake3:{digit * 64}",
        norm=float(np.linalg.norm(values)),
        sketch=sketch(values, probe=PROBE, output="logits"),
    )


def golden(floor: float) -> Golden:
    return Golden(
        probe=PROBE,
        batch=4,
        device="cpu",
        precision="fp32",
        threads=1,
        inputs=f"blake3:{'0' * 64}",
        outputs={"logits": output(ONE, "a")},
        floor={"batch": floor},
    )


def moved(relative: float) -> np.ndarray:
    """The values moved by a relative distance."""
    direction = np.random.default_rng(1).standard_normal(ONE.size)
    return ONE + direction * relative * np.linalg.norm(ONE) / np.linalg.norm(direction)


def grade(floor: float, found: dict[str, Output]) -> Grade:
    return compare(golden(floor), found)[0].grade


def test_same_digest_is_exact() -> None:
    assert grade(0.0, {"logits": output(ONE, "a")}) is Grade.EXACT


@pytest.mark.parametrize(
    ("floor", "relative", "expected"),
    [
        (1e-6, 1e-6, Grade.EQUIVALENT),
        (1e-6, 2.5e-6, Grade.EQUIVALENT),
        (1e-6, 8e-6, Grade.DIFFERENT),
        (0.0, 1e-7, Grade.EQUIVALENT),
        (0.0, 1e-5, Grade.DIFFERENT),
    ],
)
def test_distance_is_held_against_the_floor(floor: float, relative: float, expected: Grade) -> None:
    assert grade(floor, {"logits": output(moved(relative), "b")}) is expected


def test_tolerance_is_a_multiple_of_the_floor_and_never_below_float32() -> None:
    assert tolerance(golden(1e-6)).equivalent == pytest.approx(MULTIPLE * 1e-6)
    assert tolerance(golden(0.0)).equivalent == MULTIPLE * FLOAT32_EPSILON


def test_missing_output_and_other_shape_are_different() -> None:
    assert grade(1.0, {}) is Grade.DIFFERENT
    assert grade(1.0, {"logits": output(ONE[:-1], "b")}) is Grade.DIFFERENT

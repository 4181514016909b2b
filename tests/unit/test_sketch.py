"""The sketch estimates distances within its stated error, and sees what sampling misses."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.golden.sketch import PROJECTIONS, STANDARD_ERROR, distance, sketch

NAMES = {"probe": "photos-and-prompts/1", "output": "image_features"}


def values(seed: int, size: int = 2048) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-6, 10), size=st.integers(1, 3000))
def test_distance_is_estimated_within_five_standard_errors(seed: int, scale: float, size: int) -> None:
    one = values(seed, size)
    other = (one + scale * values(seed + 1, size)).astype(np.float32)
    true = float(np.linalg.norm(one.astype(np.float64) - other))
    estimate = distance(sketch(one, **NAMES), sketch(other, **NAMES))
    # Ten digits of each projection are kept, and a projection is about as large as the norm.
    assert abs(estimate - true) <= 5 * STANDARD_ERROR * true + 1e-9 * float(np.linalg.norm(one))


def test_relative_errors_of_many_estimates_have_the_stated_standard_deviation() -> None:
    errors = []
    for seed in range(300):
        difference = values(seed, 512)
        estimate = distance(sketch(difference, **NAMES), [0.0] * PROJECTIONS)
        errors.append(estimate / float(np.linalg.norm(difference.astype(np.float64))) - 1)
    assert np.std(errors) == pytest.approx(STANDARD_ERROR, rel=0.2)
    assert abs(np.mean(errors)) < STANDARD_ERROR / 3


def test_one_zeroed_column_is_seen_at_its_true_size() -> None:
    one = values(0).reshape(4, 512)
    other = one.copy()
    other[:, 7] = 0
    true = float(np.linalg.norm(one - other))
    assert distance(sketch(one, **NAMES), sketch(other, **NAMES)) == pytest.approx(true, rel=5 * STANDARD_ERROR)


def test_two_swapped_columns_are_seen() -> None:
    one = values(0).reshape(4, 512)
    other = one.copy()
    other[:, [3, 400]] = one[:, [400, 3]]
    true = float(np.linalg.norm(one - other))
    assert distance(sketch(one, **NAMES), sketch(other, **NAMES)) == pytest.approx(true, rel=5 * STANDARD_ERROR)


def test_signs_are_the_published_bits_of_blake3() -> None:
    stream = blake3(b"manifest/sketch/v1\nphotos-and-prompts/1\nimage_features\n").digest(length=8 * 3)
    for index in range(3):
        unit = np.zeros(3, dtype=np.float32)
        unit[index] = 1
        bits = np.unpackbits(np.frombuffer(stream[8 * index : 8 * index + 8], np.uint8))
        assert sketch(unit, **NAMES) == [1.0 if bit else -1.0 for bit in bits]


def test_values_beyond_one_block_are_projected_by_the_same_signs() -> None:
    long = np.zeros((1 << 16) + 5, dtype=np.float32)
    long[-1] = 1
    stream = blake3(b"manifest/sketch/v1\nphotos-and-prompts/1\nimage_features\n").digest(
        length=8, seek=8 * (len(long) - 1)
    )
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    assert sketch(long, **NAMES) == [1.0 if bit else -1.0 for bit in bits]


def test_shape_does_not_matter_and_names_do() -> None:
    one = values(0)
    assert sketch(one, **NAMES) == sketch(one.reshape(4, 512), **NAMES)
    assert sketch(one, **NAMES) != sketch(one, probe=NAMES["probe"], output="text_features")
    assert sketch(one, **NAMES) != sketch(one, probe="photos-and-tokens/1", output=NAMES["output"])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), factor=st.sampled_from([-2.0, 0.5, 4.0]))
def test_sketch_is_linear(seed: int, factor: float) -> None:
    one = values(seed, 100)
    scaled = sketch((factor * one).astype(np.float32), **NAMES)
    assert scaled == pytest.approx([factor * value for value in sketch(one, **NAMES)], rel=1e-8, abs=1e-8)

"""The kinship sketch: its published vectors, that it is linear, and how well it tells distances."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.kinship.sketch import (
    DTYPES,
    FEW,
    LARGE_FROM,
    MANY,
    Sketch,
    Sketching,
    digest_and_sketch,
    numbers_of_ones,
)

VECTORS = Path(__file__).parents[2] / "fixtures" / "kinship" / "vectors.json"


def sketched(values: np.ndarray, *cuts: int, dtype: str = "float32") -> Sketch:
    """The sketch of values that come in blocks which end at some bytes."""
    data = values.tobytes()
    sketching = Sketching(dtype, values.size)
    for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
        sketching.add(memoryview(data)[start:end])
    found = sketching.result()
    assert found is not None
    return found


def normal(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_published_vectors_are_met_exactly_in_every_type(dtype: str, tmp_path: Path) -> None:
    vectors = json.loads(VECTORS.read_text())
    index = [np.arange(each["values"], dtype=np.int64) for each in vectors]
    tensors = {
        str(i.size): torch.from_numpy(((i * i + 3 * i) % 251 - 125) / 64).to(getattr(torch, dtype)) for i in index
    }
    save_file(tensors, tmp_path / "vectors.safetensors")
    with open_checkpoint(tmp_path / "vectors.safetensors") as stored:
        for each in vectors:
            tensor = stored.tensors[str(each["values"])]
            digest, found = digest_and_sketch(stored, tensor)
            assert digest == stored.digest(tensor)
            assert found is not None
            assert found.numbers.tolist() == each["numbers"]
            assert (found.norm, found.zeros) == (pytest.approx(each["norm"], rel=1e-6), each["zeros"])


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 400_000), cuts=st.lists(st.floats(0, 1), max_size=5))
def test_blocks_may_end_anywhere(seed: int, size: int, cuts: list[float]) -> None:
    values = normal(seed, size)
    whole, cut = sketched(values), sketched(values, *sorted(int(4 * size * each) for each in cuts))
    assert cut.numbers == pytest.approx(whole.numbers, abs=1e-5 * whole.norm)
    assert (cut.norm, cut.zeros) == (pytest.approx(whole.norm, rel=1e-6), whole.zeros)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 100_000), weight=st.floats(-3, 3))
def test_sketch_of_a_sum_is_the_sum_of_sketches(seed: int, size: int, weight: float) -> None:
    one, other = normal(seed, size), normal(seed + 1, size)
    both = sketched((one + weight * other.astype(np.float64)).astype(np.float32))
    sum_of_both = sketched(one).numbers + weight * sketched(other).numbers
    assert both.numbers == pytest.approx(sum_of_both, abs=1e-5 * (1 + abs(weight)) * math.sqrt(size))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_finite_half_is_read_as_it_is(dtype: str) -> None:
    halves = torch.arange(-32768, 32768, dtype=torch.int16).view(getattr(torch, dtype))
    halves = halves[halves.isfinite() & (halves.abs() < 1e9)]
    found = sketched(halves.view(torch.int16).numpy(), dtype=dtype)
    expected = sketched(halves.float().numpy())
    assert found.numbers.tolist() == expected.numbers.tolist()
    assert (found.norm, found.zeros) == (expected.norm, 2)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_tensor_with_a_value_that_is_not_finite_has_no_sketch(dtype: str, odd: float, tmp_path: Path) -> None:
    values = torch.zeros(20_000, dtype=getattr(torch, dtype))
    values[12_345] = odd
    save_file({"x": values}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as stored:
        assert digest_and_sketch(stored, stored.tensors["x"]) == (stored.digest(stored.tensors["x"]), None)


def test_whole_numbers_and_empty_tensors_have_no_sketch(tmp_path: Path) -> None:
    save_file({"ids": torch.arange(3), "none": torch.zeros(0, 4)}, tmp_path / "x.safetensors")
    with open_checkpoint(tmp_path / "x.safetensors") as stored:
        for tensor in stored.tensors.values():
            assert digest_and_sketch(stored, tensor) == (stored.digest(tensor), None)


@pytest.mark.parametrize("size", [1, 17, 5_000, 3 << 20])
def test_sketch_of_ones_is_that_of_ones(size: int) -> None:
    assert numbers_of_ones(size).tolist() == sketched(np.ones(size, np.float32)).numbers.tolist()


@pytest.mark.parametrize("size", [1, 2, 17])
def test_few_values_can_be_read_off_the_sketch(size: int) -> None:
    values = normal(0, size)
    assert np.abs(sketched(values).numbers)[:size].tolist() == np.abs(values).tolist()


def column(width: int) -> np.ndarray:
    """A matrix in which one column is not zero."""
    values = np.zeros((1024, width), np.float32)
    values[:, 7] = normal(width, 1024)
    return values


def row(width: int) -> np.ndarray:
    """One in which one row is."""
    values = np.zeros((1024, width), np.float32)
    values[7] = normal(width, width)
    return values


STRUCTURES = {
    "of noise": lambda width, seed: normal(seed, 1024 * width),
    "of one column": lambda width, seed: np.roll(column(width), seed, axis=1) * normal(seed, 1024)[:, None],
    "of one row": lambda width, seed: np.roll(row(width), seed, axis=0) * normal(seed, width),
    "of rank one": lambda width, seed: np.outer(normal(seed, 1024), normal(seed + 999, width)),
    "of rank one and positive": lambda width, seed: np.outer(normal(seed, 1024), np.abs(normal(seed + 999, width))),
}
"""Differences of two matrices of 1,024 rows, as training, pruning and merging make them."""


@pytest.mark.parametrize("width", [64, 512, 768, 1024, 1280, 4096])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_distance_of_a_large_tensor_is_known_to_an_eighth_whatever_its_structure(structure: str, width: int) -> None:
    errors = []
    for seed in range(40):
        values = np.ascontiguousarray(STRUCTURES[structure](width, seed), np.float32)
        assert values.size >= LARGE_FROM
        found = sketched(values)
        assert found.numbers.size == MANY
        errors.append(float(np.linalg.norm(found.numbers)) / found.norm - 1)
    # The root mean square of 40 errors is itself known to a ninth; of rank one and constant, it is √2 times as large.
    assert float(np.sqrt(np.mean(np.square(errors)))) < 1.2 * math.sqrt(2) / math.sqrt(2 * MANY)


@pytest.mark.parametrize("size", [18, 768, 3072, 8191])
def test_distance_of_a_small_tensor_is_known_to_a_sixth(size: int) -> None:
    errors = [
        float(np.linalg.norm(sketched(values).numbers)) / float(np.linalg.norm(values)) - 1
        for values in (normal(seed, size) for seed in range(200))
    ]
    assert float(np.sqrt(np.mean(np.square(errors)))) < 1.2 / math.sqrt(2 * FEW)


def test_published_vectors_are_those_of_the_plain_script() -> None:
    script = VECTORS.with_name("vectors.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout == VECTORS.read_text()

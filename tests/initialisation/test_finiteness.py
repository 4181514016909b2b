"""What is not finite is found in every type, wherever it is, and nothing else is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.initialisation.values import NotFinite, not_finite
from manifest.initialisation.verdict import Anomaly, anomalies_of

WITH_INFINITY = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.complex64]
WITHOUT = [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
Odd = Callable[[dict[str, torch.Tensor]], list[Anomaly]]


def scanned(tensor: torch.Tensor) -> NotFinite | None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "weights.safetensors"
        save_file({"x": tensor}, path)
        with open_checkpoint(path) as checkpoint:
            return not_finite(checkpoint, checkpoint.tensors).get("x")


@settings(max_examples=60)
@given(
    dtype=st.sampled_from(WITH_INFINITY),
    size=st.integers(1, 700),
    where=st.floats(0, 0.999),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    seed=st.integers(0, 99),
)
def test_value_that_is_not_finite_is_found_in_any_type_and_place(
    dtype: torch.dtype, size: int, where: float, value: float, seed: int
) -> None:
    tensor = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert scanned(tensor) is None
    index = int(where * size)
    tensor[index] = value
    is_nan = value != value
    assert scanned(tensor) == NotFinite(int(is_nan), int(not is_nan), index)


@settings(max_examples=20)
@given(dtype=st.sampled_from(WITHOUT), size=st.integers(1, 700), where=st.floats(0, 0.999))
def test_nan_is_found_in_types_without_infinity(dtype: torch.dtype, size: int, where: float) -> None:
    values = torch.randn(size)
    assert scanned(values.to(dtype)) is None
    values[int(where * size)] = float("nan")
    assert scanned(values.to(dtype)) == NotFinite(1, 0, int(where * size))


@given(bits=st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=200))
@settings(max_examples=60)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_any_bits_are_judged_as_torch_judges_them(dtype: torch.dtype, bits: list[int]) -> None:
    tensor = torch.tensor(bits, dtype=torch.int32).to(torch.uint16).view(dtype)
    found = scanned(tensor)
    assert (found.nans if found else 0) == int(tensor.isnan().sum())
    assert (found.infinities if found else 0) == int(tensor.isinf().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("index", [0, (1 << 20) - 1, 1 << 20, 2_999_999])
def test_one_value_in_a_large_tensor_is_found_at_the_borders_of_pieces(dtype: torch.dtype, index: int) -> None:
    tensor = torch.zeros(3_000_000, dtype=dtype)
    tensor[index] = float("-inf")
    assert scanned(tensor) == NotFinite(0, 1, index)


@pytest.fixture
def odd(tmp_path: Path) -> Odd:
    def read(state: dict[str, torch.Tensor]) -> list[Anomaly]:
        torch.save(state, tmp_path / "weights.pt")
        with open_checkpoint(tmp_path / "weights.pt") as checkpoint:
            return anomalies_of(checkpoint)

    return read


def test_message_says_how_many_and_where_in_the_tensors_own_shape(odd: Odd) -> None:
    weight = torch.randn(4, 5, 6)
    weight[1, 2, 3:5] = float("nan")
    weight[3, 4, 5] = float("inf")
    message = "x.weight has 2 NaNs and 1 infinite value among its 120, the first at [1, 2, 3]."
    assert odd({"x.weight": weight}) == [Anomaly("not-finite", ("x.weight",), message)]


def test_value_in_a_transposed_view_is_found_at_its_index_in_the_view(odd: Odd) -> None:
    weight = torch.randn(30, 40)
    weight[7, 3] = float("nan")
    assert odd({"x.weight": weight.T})[0].message.endswith("the first at [3, 7].")


def test_mask_of_infinities_is_not_odd(odd: Odd) -> None:
    mask = torch.full((8, 8), float("-inf")).triu(1)
    assert odd({"attn_mask": mask}) == []

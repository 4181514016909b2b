"""Weights that are one value throughout, too small for their type, or the same under two names."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.checkpoint import open_checkpoint
from manifest.initialisation.verdict import Anomaly, anomalies_of, evidence


def odd(state: dict[str, torch.Tensor]) -> list[Anomaly]:
    with tempfile.TemporaryDirectory() as directory:
        torch.save(state, Path(directory) / "weights.pt")
        with open_checkpoint(Path(directory) / "weights.pt") as checkpoint:
            return anomalies_of(checkpoint)


@settings(max_examples=30)
@given(
    rows=st.integers(12, 40),
    columns=st.integers(12, 200),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
    where=st.floats(0, 0.999),
)
def test_two_weights_are_duplicates_only_while_every_value_is_the_same(
    rows: int, columns: int, dtype: torch.dtype, where: float
) -> None:
    weight = torch.rand(rows, columns).add(1).to(dtype)
    other = weight.clone()
    found = odd({"a.0.weight": weight, "a.1.weight": other})
    assert [(one.kind, one.names) for one in found] == [("duplicate", ("a.0.weight", "a.1.weight"))]
    other.view(-1)[int(where * other.numel())] += 1
    assert odd({"a.0.weight": weight, "a.1.weight": other}) == []


def test_large_weights_that_differ_outside_of_any_sample_are_no_duplicates() -> None:
    weight = torch.rand(3_000, 700)
    other = weight.clone()
    other[1_234, 567] = 3.0
    assert odd({"a.weight": weight, "b.weight": other}) == []


def test_tied_weights_are_no_duplicates() -> None:
    weight = torch.rand(64, 32)
    assert odd({"embedding.weight": weight, "head.weight": weight}) == []


def test_layers_with_the_same_values_are_named_once() -> None:
    layer = {"attn.weight": torch.rand(32, 32), "mlp.weight": torch.rand(64, 32)}
    state = {f"blocks.{index}.{name}": value.clone() for index in (3, 4) for name, value in layer.items()}
    (found,) = odd(state)
    assert found.message == "blocks.3 and blocks.4 have the same values in 2 weights."


def test_components_with_the_same_values_are_named_once() -> None:
    layers = {f"layers.{index}.weight": torch.rand(32, 32) for index in range(3)}
    state = {f"{tower}.{name}": value.clone() for tower in ("student", "teacher") for name, value in layers.items()}
    found = odd(state)
    assert {one.kind for one in found} == {"duplicate"}
    assert sorted(name for one in found for name in one.names) == sorted(state)


def test_equal_biases_and_computed_tables_are_not_odd() -> None:
    state = {f"blocks.{i}.{name}": torch.ones(64) for i in range(2) for name in ("bias", "norm.weight")}
    state |= {f"blocks.{i}.rope.inv_freq": torch.arange(1.0, 257.0).view(16, 16) for i in range(2)}
    assert odd(state) == []


@pytest.mark.parametrize(("value", "kind"), [(0.0, "all-zero"), (0.5, "constant")])
def test_weight_of_one_value_is_odd_and_a_bias_is_not(value: float, kind: str) -> None:
    found = odd({"fc.weight": torch.full((20, 30), value), "fc.bias": torch.full((20,), value)})
    assert [(one.kind, one.names) for one in found] == [(kind, ("fc.weight",))]


def test_several_weights_of_zeros_are_told_in_one_sentence() -> None:
    found = odd({f"blocks.{index}.fc.weight": torch.zeros(20, 30) for index in range(4)})
    assert [one.message for one in found] == ["blocks.{0..3}.fc.weight are zero throughout."]


def test_weight_that_is_zero_but_for_one_value_is_not_constant() -> None:
    weight = torch.zeros(2_000, 3_000)
    weight[777, 777] = 1.0
    assert odd({"fc.weight": weight}) == []


def test_layer_scales_of_one_value_with_trailing_ones_are_not_odd() -> None:
    assert odd({"blocks.0.gamma": torch.full((64, 1, 1), 1e-6)}) == []


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 1e-6), (torch.float32, 1e-39)])
def test_weight_of_denormals_is_odd(dtype: torch.dtype, scale: float) -> None:
    weight = (torch.randn(64, 64, dtype=torch.float64) * scale).to(dtype)
    (found,) = odd({"fc.weight": weight})
    assert found.kind == "denormal"
    assert found.message.endswith("of the values of fc.weight are too small for all their digits.")


@settings(max_examples=60)
@given(
    raw=st.binary(min_size=64, max_size=64),
    times=st.sampled_from([1, 4, 40]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64]),
    name=st.sampled_from(["weight", "bias", "norm.weight", "0.gamma", "logit_scale", "a/b/kernel", "in_proj_weight"]),
)
def test_any_bytes_get_a_verdict_without_a_warning(raw: bytes, times: int, dtype: torch.dtype, name: str) -> None:
    tensor = torch.frombuffer(bytearray(raw * times), dtype=torch.uint8).view(dtype)
    state = {name: tensor.view(8, -1) if "norm" not in name and "bias" not in name else tensor, "norm.bias": tensor}
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        torch.save(state, Path(directory) / "weights.pt")
        warnings.simplefilter("error")
        with open_checkpoint(Path(directory) / "weights.pt") as checkpoint:
            assert set(evidence(dict.fromkeys(state, "head"), checkpoint)) == {"head"}
            anomalies_of(checkpoint)

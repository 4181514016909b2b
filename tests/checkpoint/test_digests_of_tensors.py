"""The digest of a stored tensor is that of the values torch had when it was saved."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.checkpoint.tensors import ITEM_SIZES, SAFETENSORS_CODES, STORAGE_CLASSES
from manifest.digests import tensor_digest

DTYPES = [
    getattr(torch, name)
    for name in [
        *("float32", "float64", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
        *("complex64", "complex128", "complex32", "bool"),
        *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    ]
]
IN_LEGACY = [dtype for dtype in DTYPES if str(dtype).removeprefix("torch.") in STORAGE_CLASSES.values()]
IN_BOTH = [dtype for dtype in DTYPES if str(dtype).removeprefix("torch.") in SAFETENSORS_CODES.values()]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def tensors(draw: st.DrawFn, dtypes: list[torch.dtype]) -> torch.Tensor:
    """A tensor of any type and shape, often a sliced, permuted or expanded view of a larger one."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    size = torch.Size(shape).numel() * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype) if raw else torch.empty(0, dtype=dtype)
    tensor = flat.reshape(shape)
    for dimension in range(tensor.dim()):
        if draw(st.booleans()):
            start = draw(st.integers(0, tensor.shape[dimension]))
            step = draw(st.integers(1, 3))
            tensor = tensor[(slice(None),) * dimension + (slice(start, None, step),)]
    if tensor.dim() and draw(st.booleans()):
        tensor = tensor.permute(draw(st.permutations(range(tensor.dim()))))
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(draw(st.integers(1, 3)), *tensor.shape)
    return tensor


def expected(tensor: torch.Tensor, values) -> str:
    return tensor_digest(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), values(tensor))


@settings(max_examples=120)
@given(state=st.dictionaries(names, tensors(DTYPES), min_size=1, max_size=4))
def test_digest_when_read_from_torch_zip_then_is_of_the_live_values(state, values):
    check_digests(state, values)


@settings(max_examples=60)
@given(state=st.dictionaries(names, tensors(IN_LEGACY), min_size=1, max_size=4))
def test_digest_when_read_from_torch_legacy_then_is_of_the_live_values(state, values):
    check_digests(state, values, _use_new_zipfile_serialization=False)


def check_digests(state, values, **options) -> None:
    """Save some tensors, one of them twice, and compare what is read with what was there."""
    first = next(iter(state))
    state["tied"] = state[first]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        torch.save(state, path, **options)
        with open_checkpoint(path) as checkpoint:
            stored = {tensor.name: tensor for tensor in checkpoint.tensors.values()}
            assert stored.keys() == state.keys()
            for name, tensor in state.items():
                assert checkpoint.digest(stored[name]) == expected(tensor, values)


@settings(max_examples=60)
@given(state=st.dictionaries(names, tensors(IN_BOTH), min_size=1, max_size=4))
def test_digests_when_the_same_weights_are_in_both_containers_then_agree(state):
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder, "model.pt"))
        save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, Path(folder, "model.sft"))
        with (
            open_checkpoint(Path(folder, "model.pt")) as one,
            open_checkpoint(Path(folder, "model.sft")) as other,
        ):
            assert one.prefix == other.prefix
            assert {name: one.digest(tensor) for name, tensor in one.tensors.items()} == {
                name: other.digest(tensor) for name, tensor in other.tensors.items()
            }


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128, torch.complex32], ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_digest_when_the_conj_bit_is_set_then_is_of_the_conjugated_values(dtype, save, values):
    plain = torch.randn(3, 5, dtype=torch.complex128).to(dtype)
    state = {"whole": plain.conj(), "strided": plain.conj().t()[1:, ::2]}
    assert state["whole"].is_conj()
    with open_checkpoint(save(state)) as checkpoint:
        assert checkpoint.tensors["whole"].conjugated
        for name, tensor in state.items():
            assert checkpoint.digest(checkpoint.tensors[name]) == expected(tensor, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_digest_when_the_neg_bit_is_set_then_is_of_the_negated_values(dtype, save, values):
    # Without a zero imaginary part: which sign torch gives to its negation depends on its place in the tensor.
    tensor = torch._neg_view(torch.randn(4, 3, dtype=torch.complex64 if dtype.is_complex else None).to(dtype))
    assert tensor.is_neg()
    with open_checkpoint(save({"w": tensor, "turned": tensor.t()})) as checkpoint:
        assert checkpoint.tensors["w"].negated
        assert checkpoint.digest(checkpoint.tensors["w"]) == expected(tensor, values)
        assert checkpoint.digest(checkpoint.tensors["turned"]) == expected(tensor.t(), values)


def test_digest_when_both_bits_are_set_then_is_of_the_resolved_values(save, values):
    tensor = torch._neg_view(torch.randn(5, dtype=torch.complex64)).conj()
    assert tensor.is_neg() and tensor.is_conj()
    with open_checkpoint(save({"w": tensor})) as checkpoint:
        assert checkpoint.digest(checkpoint.tensors["w"]) == expected(tensor, values)


def test_digest_when_the_tensor_is_a_parameter_then_is_of_its_data(save, values):
    layer = torch.nn.Linear(3, 2)
    with open_checkpoint(save({"parameter": layer.weight, **layer.state_dict()})) as checkpoint:
        assert checkpoint.digest(checkpoint.tensors["parameter"]) == expected(layer.weight, values)
        assert checkpoint.aliases() == {"weight": "parameter"}


def test_digest_when_four_bit_floats_are_packed_then_agrees_in_both_containers(tmp_path):
    packed = torch.arange(8, dtype=torch.uint8).reshape(2, 4).view(torch.float4_e2m1fn_x2)
    torch.save({"w": packed}, tmp_path / "model.pt")
    save_file({"w": packed}, tmp_path / "model.safetensors")
    with (
        open_checkpoint(tmp_path / "model.pt") as one,
        open_checkpoint(tmp_path / "model.safetensors") as other,
    ):
        assert one.tensors["w"].shape == other.tensors["w"].shape == tuple(packed.shape)
        assert one.digest(one.tensors["w"]) == other.digest(other.tensors["w"])


def test_item_sizes_when_compared_with_torch_then_are_the_same():
    assert {name: getattr(torch, name).itemsize for name in ITEM_SIZES} == ITEM_SIZES

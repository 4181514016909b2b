"""Files of big-endian machines: what torch reads out of them is what is read here."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.package import PackageExporter

from manifest.checkpoint import gathering, open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int16, torch.int32, torch.int64, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn),
]


def as_if_big(path: Path, data: bytes) -> Path:
    """An archive with another byte order written into it."""
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("/byteorder") else source.read(name))
    return path


def turned_around(state: Mapping[str, torch.Tensor]) -> None:
    """Turn the bytes of every number around, in place."""
    storages = {tensor.untyped_storage()._cdata: tensor for tensor in state.values()}
    for tensor in storages.values():
        tensor.untyped_storage().byteswap(tensor.dtype)


def save_big(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    """The file that a big-endian machine would write; the tensors are useless afterwards."""
    turned_around(state)
    stream = io.BytesIO()
    torch.save(state, stream)
    return as_if_big(path, stream.getvalue())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_tensors_when_big_endian_then_are_what_torch_loads(dtype, tmp_path, check_weights):
    flat = torch.arange(24).to(dtype)
    state = {
        "whole": flat,
        "turned": flat.reshape(4, 6).t(),
        "part": flat[3:15:2],
        "scalar": flat[5],
        "empty": flat[:0],
        "tied": flat,
    }
    expected = {name: tensor.clone() for name, tensor in state.items()}
    path = save_big(tmp_path / "big.pt", state)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.container == "torch-zip"
        check_weights(checkpoint, expected)
        check_weights(checkpoint, torch.load(path, weights_only=True))
        assert checkpoint.aliases() == {"tied": "whole"}


def test_bits_of_signs_when_big_endian_then_are_applied(tmp_path, check_weights):
    plain = torch.randn(4, 3, dtype=torch.complex64)
    state = {
        "conj": plain.conj(),
        "neg": torch._neg_view(torch.randn(5)),
        "both": torch._neg_view(plain.clone()).conj(),
    }
    expected = {name: tensor.resolve_conj().resolve_neg().clone() for name, tensor in state.items()}
    path = save_big(tmp_path / "big.pt", state)
    with open_checkpoint(path) as checkpoint:
        check_weights(checkpoint, expected)


def test_composite_tensors_when_big_endian_then_digest_as_little_endian_ones(tmp_path, save):
    dense = torch.eye(3)
    coordinates = dense.to_sparse()
    quantized = torch.quantize_per_tensor(dense, 0.1, 1, torch.qint32)
    little = save({"s": coordinates, "q": quantized})
    with open_checkpoint(little) as checkpoint:
        expected = {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()}
    turned_around({"i": coordinates._indices(), "v": coordinates._values()})
    quantized.untyped_storage().byteswap(torch.int32)
    stream = io.BytesIO()
    torch.save({"s": coordinates, "q": quantized}, stream)
    with open_checkpoint(as_if_big(tmp_path / "big.pt", stream.getvalue())) as checkpoint:
        assert {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()} == expected


@settings(max_examples=60)
@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    dtype=st.sampled_from(TYPES),
    block=st.integers(1, 64),
    random=st.randoms(),
)
def test_big_endian_tensor_when_larger_than_a_block_then_digests_as_its_values(
    shape, dtype, block, random, tmp_path_factory
):
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
    tensor = tensor.permute(random.sample(range(len(shape)), len(shape)))
    expected = bytes(tensor.contiguous().clone().untyped_storage())
    path = save_big(tmp_path_factory.mktemp("big") / "model.pt", {"w": tensor})
    with open_checkpoint(path) as checkpoint, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_BLOCK", block)
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == expected


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.complex32], ids=str)
def test_tensor_when_big_endian_and_read_wrongly_by_torch_then_is_refused(dtype, tmp_path, refusal):
    state = {"w": torch.arange(1, 5).to(dtype)}
    values = state["w"].clone()
    path = save_big(tmp_path / "big.pt", state)
    loaded = torch.load(path, weights_only=True)["w"]
    assert bytes(loaded.untyped_storage()) != bytes(values.untyped_storage())
    error = refusal(path)
    assert error.rule == "F004"
    assert "tensor 'w' of" in str(error)
    assert "is big-endian, and torch would read it wrongly" in str(error)


def test_storage_when_of_two_types_then_is_refused(forge, refusal):
    state = forge.state(v=forge.tensor(), w=forge.tensor(storage_class="torch HalfStorage", elements=8))
    for byteorder in (b"little", b"big"):
        error = refusal(forge.archive(state, {"0": bytes(16)}, byteorder=byteorder))
        assert error.rule == "F002"
        assert "gives storage '0' two types" in str(error)


def program(path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), path)


def package(path: Path) -> None:
    with PackageExporter(path) as exporter:
        exporter.save_pickle("weights", "model.pkl", {"w": torch.ones(3)})


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(3, 2), (torch.randn(1, 3),)), path)


@pytest.mark.parametrize("write", [program, package, exported])
def test_container_when_big_endian_and_torch_does_not_mind_then_is_refused(
    write: Callable[[Any], None], tmp_path, refusal
):
    path = tmp_path / "model.pt2"
    write(path)
    error = refusal(as_if_big(path, path.read_bytes()))
    assert error.rule == "F004"
    assert "its numbers are big-endian" in str(error)

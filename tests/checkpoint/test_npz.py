"""numpy's archives: arrays of numbers in any order and byte order are weights, anything else is named."""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.checkpoint import Checkpoint, gathering, open_checkpoint
from manifest.digests import tensor_digest
from manifest.errors import CheckpointError

SAVERS = {"stored": numpy.savez, "deflated": numpy.savez_compressed}
ARRAYS: dict[str, numpy.ndarray] = {
    **{
        f"{order}{kind}": numpy.arange(30).reshape(5, 6).astype(f"{order}{kind}")
        for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
        for order in "<>"
    },
    "bool": numpy.arange(30).reshape(5, 6) % 3 == 0,
    "fortran": numpy.asfortranarray(numpy.arange(60.0).reshape(3, 4, 5)),
    "fortran and big": numpy.asfortranarray(numpy.arange(60).reshape(3, 4, 5).astype(">i4")),
    "fortran and complex": numpy.asfortranarray((numpy.arange(6.0) * (1 - 2j)).reshape(2, 3)).astype(">c8", order="F"),
    "scalar": numpy.array(2.5),
    "scalar and big": numpy.array(2.5, dtype=">f4"),
    "empty": numpy.empty((0, 7), dtype="f4"),
    "empty and fortran": numpy.empty((3, 0, 2), dtype="f4", order="F"),
    "sliced": numpy.arange(60.0).reshape(6, 10)[::2, 1::3],
    "turned": numpy.arange(6, dtype="i2").reshape(2, 3).T,
    "ones": numpy.ones((1, 5, 1), dtype="f4", order="F"),
    "layer/kernel:0": numpy.arange(4.0),
    "naïve": numpy.arange(4.0),
}


def numpy_digest(array: numpy.ndarray) -> str:
    plain = numpy.ascontiguousarray(array).reshape(array.shape)
    return tensor_digest(array.dtype.name, array.shape, plain.astype(array.dtype.newbyteorder("<")).tobytes())


@pytest.fixture(params=SAVERS)
def save_arrays(request, tmp_path) -> Callable[..., Path]:
    def saved(*positional: Any, **arrays: Any) -> Path:
        path = tmp_path / "model.npz"
        SAVERS[request.param](path, *positional, **arrays)
        return path

    return saved


def test_arrays_when_saved_by_numpy_then_digest_as_their_values(save_arrays):
    with open_checkpoint(save_arrays(**ARRAYS)) as checkpoint:
        assert checkpoint.container == "npz"
        assert {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()} == {
            name: numpy_digest(array) for name, array in ARRAYS.items()
        }


def test_digests_when_the_same_weights_are_saved_by_torch_then_agree(save_arrays, save):
    state = {
        "w": torch.randn(3, 4),
        "h": torch.randn(5).half(),
        "n": torch.arange(6).reshape(3, 2),
        "s": torch.ones(()),
    }
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    with open_checkpoint(save_arrays(**arrays)) as one, open_checkpoint(save(state)) as other:
        assert {name: one.digest(tensor) for name, tensor in one.tensors.items()} == {
            name: other.digest(tensor) for name, tensor in other.tensors.items()
        }


def test_values_when_stored_plainly_then_are_the_mapping_itself(tmp_path):
    numpy.savez(tmp_path / "model.npz", w=numpy.arange(4.0))
    with open_checkpoint(tmp_path / "model.npz") as checkpoint:
        view = checkpoint.values(checkpoint.tensors["w"])
        assert view.obj is checkpoint.mapping
        view.release()


def test_arrays_when_saved_without_names_then_are_numbered(save_arrays):
    with open_checkpoint(save_arrays(numpy.ones(2), numpy.ones(3))) as checkpoint:
        assert list(checkpoint.tensors) == ["arr_0", "arr_1"]


def test_arrays_when_their_names_differ_in_case_only_then_are_both_read(save_arrays):
    with open_checkpoint(save_arrays(w=numpy.ones(2), W=numpy.ones(3))) as checkpoint:
        assert {name: tensor.shape for name, tensor in checkpoint.tensors.items()} == {"w": (2,), "W": (3,)}


def test_prefix_when_on_every_name_then_is_stripped(save_arrays):
    with open_checkpoint(save_arrays(**{"module.v": numpy.ones(2), "module.w": numpy.ones(3)})) as checkpoint:
        assert (checkpoint.prefix, list(checkpoint.tensors)) == ("module.", ["v", "w"])


UNLISTED: dict[str, tuple[numpy.ndarray, str]] = {
    "objects": (numpy.array([{"a": 1}, None], dtype=object), "an array of Python objects, which is a pickle"),
    "texts": (numpy.array(["cat", "dog"]), "an array of texts"),
    "bytes": (numpy.array([b"cat"]), "an array of bytes"),
    "records": (numpy.zeros(3, dtype=[("a", "<f4"), ("b", "<i8", (2,))]), "an array of raw bytes or records"),
    "raw": (numpy.zeros(3, dtype="V5"), "an array of raw bytes or records"),
    "dates": (numpy.array(["2024-01-01"], dtype="datetime64[D]"), "an array of dates"),
    "durations": (numpy.array([5], dtype="timedelta64[25s]"), "an array of durations"),
    "long": (numpy.ones(3, dtype=numpy.longdouble), "an array of numbers that torch has no type for, f16"),
    "long complex": (numpy.ones(3, dtype=numpy.clongdouble), "an array of numbers that torch has no type for, c32"),
}


@pytest.mark.parametrize("kind", UNLISTED)
@pytest.mark.filterwarnings("ignore:.*metadata on a dtype")
def test_array_when_not_of_numbers_then_is_named_beside_the_others(kind, save_arrays):
    array, what = UNLISTED[kind]
    with open_checkpoint(save_arrays(w=numpy.ones(2), odd=array)) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.unlisted == {"odd": what}


@pytest.mark.parametrize("kind", UNLISTED)
def test_archive_when_no_array_is_of_numbers_then_is_refused(kind, save_arrays, refusal):
    array, what = UNLISTED[kind]
    error = refusal(save_arrays(odd=array))
    assert error.rule == "F001"
    assert f"'odd' is {what}" in str(error)


def test_array_of_objects_when_its_pickle_would_run_code_then_is_never_opened(save_arrays, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "trap"), "w")

    with open_checkpoint(save_arrays(w=numpy.ones(2), odd=numpy.array([Trap()], dtype=object))) as checkpoint:
        assert list(checkpoint.unlisted) == ["odd"]
    assert not (tmp_path / "trap").exists()


@settings(max_examples=100)
@given(
    shape=st.lists(st.integers(0, 9), max_size=3),
    dtype=st.sampled_from(["<f4", ">f4", "<i8", ">c8", "|u1", "|b1", ">f2"]),
    order=st.sampled_from("CF"),
    block=st.integers(1, 300),
    constant=st.booleans(),
)
def test_compressed_array_when_larger_than_a_block_then_digests_as_its_values(shape, dtype, order, block, constant):
    values = numpy.zeros(shape) if constant else numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape) * 7
    array = numpy.array(values, dtype=dtype, order=order)
    stream = io.BytesIO()
    numpy.savez_compressed(stream, w=array)
    with pytest.MonkeyPatch.context() as patch, open_bytes(stream.getvalue()) as checkpoint:
        patch.setattr(gathering, "_BLOCK", block)
        assert checkpoint.digest(checkpoint.tensors["w"]) == numpy_digest(array)


def open_bytes(data: bytes) -> Checkpoint:
    """A checkpoint whose file is gone once it is open, as a property test cannot use fixtures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.npz")
        path.write_bytes(data)
        return open_checkpoint(path)


def npy(array: numpy.ndarray, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    numpy.lib.format.write_array(stream, array, version=version)
    return stream.getvalue()


@pytest.fixture
def pack(tmp_path) -> Callable[..., Path]:
    """An archive of these records."""

    def packed(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "forged.npz"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in records.items():
                archive.writestr(name, data)
        return path

    return packed


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_header_when_of_any_version_then_is_read(version, pack):
    with open_checkpoint(pack({"w.npy": npy(numpy.arange(4.0), version)})) as checkpoint:
        assert checkpoint.digest(checkpoint.tensors["w"]) == numpy_digest(numpy.arange(4.0))


def headed(header: str, data: bytes = bytes(16), version: int = 1) -> bytes:
    raw = header.encode("latin-1") + b"\n"
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes([version, 0]) + len(raw).to_bytes(width, "little") + raw + data


def described(descr: str = "'<f4'", fortran: str = "False", shape: str = "(4,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


def test_forged_array_when_left_unbroken_then_is_read(pack):
    path = pack({"w.npy": headed(described())})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["w"].shape == (4,)
    assert numpy.load(path)["w"].shape == (4,)


HUGE = (1 << 62) - 1

BROKEN: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "F002", "does not begin as an array"),
    "the magic only": (b"\x93NUMPY", "F002", "does not begin as an array"),
    "another magic": (npy(numpy.ones(3)).replace(b"NUMPY", b"NUMPX"), "F002", "does not begin as an array"),
    "another version": (b"\x93NUMPY\x04" + bytes(99), "F002", "does not begin as an array"),
    "a header beyond the end": (headed(described())[:30], "F002", "a header that numpy does not write"),
    "an endless header": (headed(described() + " " * 20_000), "F003", "a header of 20,"),
    "a program for a header": (
        headed("{'descr': __import__('os').system('id'), 'fortran_order': False, 'shape': (4,), }"),
        "F002",
        "a header that numpy does not write",
    ),
    "a negative size": (headed(described(shape="(-4,)")), "F002", "a header that numpy does not write"),
    "a float for a size": (headed(described(shape="(4.0,)")), "F002", "a header that numpy does not write"),
    "too few bytes": (headed(described(), bytes(15)), "F002", "has 15 bytes where its shape [4] of float32 takes 16"),
    "too many bytes": (headed(described(), bytes(17)), "F002", "has 17 bytes where its shape [4] of float32 takes 16"),
    "a size beyond all": (headed(described(shape=f"({HUGE}, {HUGE})")), "F002", "has 16 bytes where its shape"),
    "too many dimensions": (headed(described(shape=f"({'1, ' * 65})")), "F002", "more than 64 dimensions"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_array_when_broken_or_hostile_then_is_refused(case, pack, refusal):
    data, rule, found = BROKEN[case]
    error = refusal(pack({"good.npy": npy(numpy.ones(3)), "w.npy": data}))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_compressed_array_when_a_byte_is_changed_then_is_read_or_refused(pack):
    path = pack({"w.npy": npy(numpy.random.default_rng(0).normal(size=500))}, zipfile.ZIP_DEFLATED)
    data = path.read_bytes()
    for position in range(60, 4000, 97):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1 :])
        try:
            with open_checkpoint(path) as checkpoint:
                assert checkpoint.values(checkpoint.tensors["w"]).nbytes == 4000
        except CheckpointError as error:
            assert error.rule == "F002"


def test_compressed_array_when_it_inflates_to_other_than_it_claims_then_is_refused(pack):
    array = npy(numpy.zeros(1000))
    for held in (array[:-8], array + bytes(8)):
        path = pack({"w.npy": held}, zipfile.ZIP_DEFLATED)
        data = path.read_bytes().replace(len(held).to_bytes(4, "little"), len(array).to_bytes(4, "little"))
        path.write_bytes(data)
        with (
            open_checkpoint(path) as checkpoint,
            pytest.raises(CheckpointError, match="does not inflate to the 8,000 bytes"),
        ):
            checkpoint.digest(checkpoint.tensors["w"])


def test_compressed_array_when_bytes_follow_the_end_of_its_stream_then_is_refused(tmp_path):
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    array = npy(numpy.zeros(10))
    stream = deflater.compress(array) + deflater.flush() + b"hidden"
    name = b"w.npy"
    fields = (20, 0, 8, 0, 0, zlib.crc32(array), len(stream), len(array), len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + name + stream
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, *fields, 0, 0, 0, 0, 0) + name
    ending = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    path = tmp_path / "model.npz"
    path.write_bytes(local + central + ending)
    assert numpy.load(path)["w"].shape == (10,)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="does not inflate to the 80 bytes"):
        checkpoint.digest(checkpoint.tensors["w"])


def test_compressed_array_when_it_would_fill_the_memory_then_is_refused(pack, refusal):
    header = headed(described(descr="'|u1'", shape=f"({100 << 20},)"), b"")
    error = refusal(pack({"w.npy": header + bytes(100 << 20)}, zipfile.ZIP_DEFLATED))
    assert error.rule == "F003"
    assert "array 'w' would take 104,857,600 bytes" in str(error)


def test_record_when_it_has_no_name_then_is_refused(pack, refusal):
    error = refusal(pack({".npy": npy(numpy.ones(3))}))
    assert error.rule == "F002"
    assert "has the name '.npy'" in str(error)


def test_archive_when_one_record_is_no_array_then_is_no_npz(pack, refusal):
    error = refusal(pack({"w.npy": npy(numpy.ones(3)), "readme.txt": b"x"}))
    assert error.rule == "F001"

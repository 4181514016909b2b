"""Values block by block: whatever the strides, the chunks and the size of a block, they are those of the whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.checkpoint import gathering, open_checkpoint
from manifest.checkpoint.tensors import ChunkedTensor, StoredTensor, StridedTensor, row_major

NUMPY = {"float32": "<f4", "int16": "<i2", "uint8": "|u1", "float64": "<f8", "complex64": "<c8"}
blocks_of = st.integers(1, 200)


@contextmanager
def blocks_up_to(size: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "_BLOCK", size)
        yield


def mapped(data: bytes) -> mmap.mmap:
    mapping = mmap.mmap(-1, max(len(data), 1))
    mapping[: len(data)] = data
    return mapping


def check(mappings: list[mmap.mmap], tensor: StoredTensor, expected: bytes, block: int) -> None:
    """Compare values whole, in blocks, and in blocks of another size, and hold blocks to their size."""
    assert bytes(gathering.values(mappings, tensor)) == expected
    with blocks_up_to(block):
        parts = [bytes(part) for part in gathering.blocks(mappings, tensor)]
        assert b"".join(parts) == expected
        assert bytes(gathering.values(mappings, tensor)) == expected
    if not (isinstance(tensor, StridedTensor) and tensor.plain):
        assert all(0 < len(part) <= max(block, tensor.itemsize) for part in parts)


@st.composite
def strided(draw: st.DrawFn) -> tuple[StridedTensor, bytes, numpy.ndarray]:
    """A tensor with any strides, zero and overlapping ones included, the bytes it lies in, and its values."""
    dtype = draw(st.sampled_from(sorted(NUMPY)))
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
    stride = tuple(draw(st.integers(0, 9)) for _ in shape)
    itemsize = numpy.dtype(NUMPY[dtype]).itemsize
    offset = draw(st.integers(0, 5))
    length = offset + itemsize * (1 + sum((max(size, 1) - 1) * step for size, step in zip(shape, stride, strict=True)))
    data = numpy.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, length, dtype="u1").tobytes()
    steps = [step * itemsize for step in stride]
    values = numpy.ndarray(shape, NUMPY[dtype], data, offset, steps)
    return StridedTensor("w", dtype, shape, stride, offset, (0, length)), data, values


@settings(max_examples=300)
@given(strided(), blocks_of)
def test_blocks_when_of_any_strides_then_join_to_the_values(case, block):
    tensor, data, values = case
    check([mapped(data)], tensor, values.tobytes(), block)


@settings(max_examples=100)
@given(strided(), blocks_of)
def test_blocks_when_swapped_then_join_to_the_values_in_the_other_order(case, block):
    tensor, data, values = case
    # Each half of a complex number is turned around by itself.
    swapped = numpy.ascontiguousarray(values).reshape(values.shape).byteswap()
    check([mapped(data)], replace(tensor, swapped=True), swapped.tobytes(), block)


@settings(max_examples=100)
@given(strided(), blocks_of, st.booleans(), st.booleans(), st.booleans())
def test_blocks_when_bits_of_signs_are_set_then_have_them_applied(case, block, swapped, conjugated, negated):
    tensor, data, values = case
    if tensor.dtype != "complex64":
        conjugated = False
    if not gathering.can_negate(tensor.dtype):
        negated = False
    expected = values.byteswap() if swapped else values.copy()
    # Sign bits and not arithmetic, which would change NaNs.
    halves = numpy.ascontiguousarray(expected).reshape(-1).view("u1").reshape(-1, tensor.itemsize).copy()
    number = 4 if tensor.dtype == "complex64" else tensor.itemsize
    for first in range(0, tensor.itemsize, number):
        if negated != (conjugated and first > 0):
            halves[:, first + number - 1] ^= 0x80
    tensor = replace(tensor, swapped=swapped, conjugated=conjugated, negated=negated)
    check([mapped(data)], tensor, halves.tobytes(), block)


def cuts(draw: st.DrawFn, size: int) -> list[tuple[int, int]]:
    """Ranges that one dimension falls into."""
    places = sorted(draw(st.sets(st.integers(1, size - 1), max_size=3))) if size > 1 else []
    return list(zip([0, *places], [*places, size], strict=True))


@st.composite
def chunked(draw: st.DrawFn) -> tuple[ChunkedTensor, list[bytes], numpy.ndarray]:
    """A tensor in chunks over several files, some of them transposed or big-endian, and its values."""
    shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    whole = numpy.random.default_rng(draw(st.integers(0, 9))).integers(0, 2**31, shape).astype("<i4")
    files = [b"", b"x", b"yy"]
    chunks: list[tuple[tuple[int, ...], StridedTensor]] = []
    regions: list[tuple[tuple[int, int], ...]] = [()]
    for size in shape:
        regions = [(*region, cut) for region in regions for cut in cuts(draw, size)]
    for region in draw(st.permutations(regions)):
        part = whole[tuple(slice(*limits) for limits in region)]
        file, swapped, turned = draw(st.integers(0, 2)), draw(st.booleans()), draw(st.booleans())
        stored = part.T if turned else part
        data = numpy.ascontiguousarray(stored.byteswap() if swapped else stored).tobytes()
        stride = tuple(reversed(row_major(part.shape[::-1]))) if turned else row_major(part.shape)
        start = len(files[file])
        files[file] += data
        piece = StridedTensor("w", "int32", part.shape, stride, start, (start, start + len(data)))
        chunks.append((tuple(low for low, _ in region), replace(piece, file=file, swapped=swapped)))
    return ChunkedTensor("w", "int32", shape, tuple(chunks)), files, whole


@settings(max_examples=200)
@given(chunked(), blocks_of)
def test_blocks_when_in_chunks_of_any_layout_then_join_to_the_whole(case, block):
    tensor, files, whole = case
    check([mapped(data) for data in files], tensor, whole.tobytes(), block)


def test_blocks_when_plain_then_are_one_view_of_the_mapping():
    mapping = mapped(bytes(100))
    with blocks_up_to(10):
        (only,) = gathering.blocks([mapping], StridedTensor("w", "uint8", (10, 9), (9, 1), 7, (0, 100)))
    assert only.obj is mapping
    assert only.nbytes == 90
    only.release()


def test_blocks_when_there_are_no_values_then_are_none():
    tensor = StridedTensor("w", "float32", (3, 0, 2), (9, 9, 9), 0, (0, 0))
    assert list(gathering.blocks([mapped(b"")], tensor)) == []
    assert bytes(gathering.values([mapped(b"")], tensor)) == b""


def test_blocks_when_a_dimension_is_expanded_then_values_repeat_in_bounded_memory():
    tensor = StridedTensor("w", "uint8", (1 << 30, 2), (0, 1), 0, (0, 2))
    with blocks_up_to(1 << 10):
        first = next(iter(gathering.blocks([mapped(b"ab")], tensor)))
    assert bytes(first) == b"ab" * 512


def test_values_when_copied_then_can_be_written():
    turned = StridedTensor("w", "uint8", (2, 3), (1, 2), 0, (0, 6))
    mapping = mapped(bytes(range(6)))
    with blocks_up_to(2):
        view = gathering.values([mapping], turned)
    view[0] = 9
    assert bytes(view) == bytes([9, 2, 4, 1, 3, 5])
    assert mapping[0] == 0


@pytest.mark.parametrize("dimensions", [33, 64])
def test_values_when_of_more_dimensions_than_numpy_has_then_are_read(dimensions):
    shape = (*[1] * (dimensions - 2), 2, 3)
    tensor = StridedTensor("w", "uint8", shape, (*[7] * (dimensions - 2), 1, 2), 0, (0, 6))
    assert bytes(gathering.values([mapped(bytes(range(6)))], tensor)) == bytes([0, 2, 4, 1, 3, 5])


def test_file_when_of_many_strided_tensors_then_reads_by_small_blocks_as_torch_does(save, check_weights):
    flat = torch.randn(600)
    state = {
        f"{first}.{second}": flat.reshape(10, 6, 10)[:, ::first].permute(2, 0, 1)[::second]
        for first in (1, 2, 3)
        for second in (1, 3)
    }
    for block in (1, 7, 64, 1000):
        with blocks_up_to(block), open_checkpoint(save(state)) as checkpoint:
            check_weights(checkpoint, state)

"""A tensor's values as contiguous bytes, whatever its strides, its byte order, or the pieces it lies in.

Elements are moved as opaque bytes of their size and never interpreted; torch's conj and neg bits flip sign bits. What
is not plainly in the file is copied block by block, so that a large tensor is never in memory as a whole unless asked
for. numpy is imported only then.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from mmap import mmap
from typing import TYPE_CHECKING

from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.tensors import ChunkedTensor, CompositeTensor, StoredTensor, StridedTensor
from manifest.errors import CheckpointError
from manifest.escaping import printable

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    _Bytes = numpy.typing.NDArray[numpy.uint8]

_BLOCK = 16 << 20
"""Bytes of the largest copy made at once, unless a single element is larger."""

_SIGNED_PARTS = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 2,
    "bcomplex32": 2,
    "complex64": 4,
    "complex128": 8,
}
"""Bytes of one number with a sign bit: of an element, or of the two halves of a complex one."""

_Region = tuple[tuple[int, int], ...]
"""First and last-but-one index of each dimension."""


def can_negate(dtype: str) -> bool:
    """Whether torch's neg bit has a meaning for this type here."""
    return dtype in _SIGNED_PARTS


def can_conjugate(dtype: str) -> bool:
    """Whether torch's conj bit has a meaning for this type."""
    return "complex" in dtype


def blocks(mappings: Sequence[mmap], tensor: StoredTensor) -> Iterator[memoryview]:
    """A tensor's values, row-major and little-endian, in consecutive blocks.

    They are one view of a mapping where the values lie in the file that way, and copies of bounded size otherwise.

    Raises:
        CheckpointError: `F004` for a tensor without plain values, `F002` when a compressed one is not what it claims.
    """
    if isinstance(tensor, CompositeTensor):
        raise CheckpointError(
            f"tensor '{printable(tensor.name)}' is stored as {tensor.layout} and has no plain values; "
            "make it dense, or dequantize it, before saving it.",
            rule="F004",
        )
    if not tensor.numel:
        return
    if isinstance(tensor, StridedTensor):
        if tensor.plain:
            yield memoryview(mappings[tensor.file])[tensor.offset : tensor.offset + tensor.nbytes]
            return
        if tensor.deflated:
            yield from _inflated(mappings[tensor.file], tensor)
            return
        tensor = _squeezed(tensor)
    for region in _regions(tensor.shape, tensor.itemsize):
        yield _gathered(mappings, tensor, region)


def values(mappings: Sequence[mmap], tensor: StoredTensor) -> memoryview:
    """The same in one piece: a view of a mapping where possible, else a copy of `tensor.nbytes` that can be written."""
    parts = blocks(mappings, tensor)
    first = next(parts, None)
    if first is None:
        return memoryview(bytearray())
    if first.nbytes == tensor.nbytes:
        return first
    whole = bytearray(tensor.nbytes)
    position = 0
    for part in chain((first,), parts):
        whole[position : position + part.nbytes] = part
        position += part.nbytes
    return memoryview(whole)


def _regions(shape: tuple[int, ...], itemsize: int) -> Iterator[_Region]:
    """Consecutive parts of a row-major tensor, each of at most a block."""
    axis, inner = 0, math.prod(shape[1:]) * itemsize
    while axis + 1 < len(shape) and inner > _BLOCK:
        axis += 1
        inner = math.prod(shape[axis + 1 :]) * itemsize
    if not shape:
        yield ()
        return
    rows = max(1, _BLOCK // inner)
    behind = tuple((0, size) for size in shape[axis + 1 :])
    for before in product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], rows):
            here = (start, min(start + rows, shape[axis]))
            yield (*((index, index + 1) for index in before), here, *behind)


def _gathered(mappings: Sequence[mmap], tensor: StoredTensor, region: _Region) -> memoryview:
    """One region of a tensor as contiguous bytes, in its own byte order and signs."""
    import numpy

    if isinstance(tensor, ChunkedTensor):
        whole = numpy.empty([stop - start for start, stop in region], dtype=f"V{tensor.itemsize}")
        for origin, chunk in tensor.chunks:
            if chunk.numel:
                _paste(whole, region, origin, mappings[chunk.file], chunk)
        return _raw(whole).data
    assert isinstance(tensor, StridedTensor)
    part = _array(mappings[tensor.file], tensor)[tuple(slice(*limits) for limits in region)]
    return _raw(_settled(part, tensor)).data


def _array(buffer: mmap | bytes, tensor: StridedTensor) -> numpy.ndarray:
    """A tensor's elements as opaque bytes, where they lie."""
    import numpy

    # The stride of a dimension of one is never taken, and may be any number.
    strides = [
        step * tensor.itemsize if size > 1 else 0 for size, step in zip(tensor.shape, tensor.stride, strict=True)
    ]
    return numpy.ndarray(tensor.shape, f"V{tensor.itemsize}", buffer, tensor.offset, strides)


def _paste(whole: numpy.ndarray, region: _Region, origin: tuple[int, ...], mapping: mmap, chunk: StridedTensor) -> None:
    """Copy what a chunk, which begins at `origin`, has of a region."""
    into, out_of = [], []
    for (start, stop), begin, size in zip(region, origin, chunk.shape, strict=True):
        low, high = max(start, begin), min(stop, begin + size)
        if low >= high:
            return
        into.append(slice(low - start, high - start))
        out_of.append(slice(low - begin, high - begin))
    part = _array(mapping, chunk)[tuple(out_of)]
    native_mode = not (chunk.swapped or chunk.conjugated or chunk.negated)
    whole[tuple(into)] = part if native_mode else _settled(part, chunk)


def _settled(elements: numpy.ndarray, tensor: StridedTensor) -> numpy.ndarray:
    """A contiguous copy of elements, little-endian and with the signs that the conj and neg bits ask for."""
    import numpy

    settled = numpy.array(elements, order="C", copy=True)
    raw = _raw(settled)
    if tensor.swapped:
        raw[:] = raw.reshape(-1, _number_size(tensor))[:, ::-1].reshape(-1)
    if tensor.conjugated or tensor.negated:
        _flip_signs(raw, tensor)
    return settled


def _raw(elements: numpy.ndarray) -> _Bytes:
    """The bytes of contiguous elements, not copied."""
    import numpy

    return elements.reshape(-1).view(numpy.uint8)


def _number_size(tensor: StridedTensor) -> int:
    """Bytes of one number: an element, or half of a complex one."""
    return tensor.itemsize // 2 if "complex" in tensor.dtype else tensor.itemsize


def _flip_signs(values: _Bytes, tensor: StridedTensor) -> None:
    """Apply the conj and neg bits: every number of these types has its sign in its highest bit.

    torch computes the same, but for a zero within a complex number, whose sign in torch depends on its place.
    """
    part = _SIGNED_PARTS[tensor.dtype]
    sign_bytes = values.reshape(-1, tensor.itemsize)[:, part - 1 :: part]
    if tensor.negated:
        sign_bytes ^= 0x80
    if tensor.conjugated:
        sign_bytes[:, 1] ^= 0x80


def _squeezed(tensor: StridedTensor) -> StridedTensor:
    """The same elements without dimensions of one: they say nothing, and numpy has fewer dimensions than torch."""
    kept = [index for index, size in enumerate(tensor.shape) if size != 1]
    shape, stride = (tuple(values[index] for index in kept) for values in (tensor.shape, tensor.stride))
    return replace(tensor, shape=shape, stride=stride)


def _inflated(mapping: mmap, tensor: StridedTensor) -> Iterator[memoryview]:
    """The values of a compressed tensor; the whole of it at once where its elements are in another order."""
    stream = _inflate(mapping, tensor)
    if replace(tensor, deflated=False).plain:
        yield from (memoryview(data) for data in stream)
        return
    whole = b"".join(stream)
    unpacked = _squeezed(replace(tensor, deflated=False, offset=0))
    yield _raw(_settled(_array(whole, unpacked), tensor)).data


def _inflate(mapping: mmap, tensor: StridedTensor) -> Iterator[bytes]:
    """The inflated bytes from the tensor's offset on, which must be exactly as many as its values take."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    skip, left = tensor.offset, tensor.nbytes
    position, end = tensor.storage
    pending = b""
    try:
        while left or skip:
            if not pending:
                pending = mapping[position : min(position + _BLOCK, end)]
                position += len(pending)
            data = inflater.decompress(pending, min(_BLOCK, skip + left))
            if not data and (not pending or inflater.eof):
                break  # without input there can still be output: the inflater holds some back
            pending = inflater.unconsumed_tail
            skipped = min(skip, len(data))
            skip -= skipped
            left -= len(data) - skipped
            if len(data) > skipped:
                yield data[skipped:]
        whole = not left and not skip and _ends(inflater, pending, mapping, position, end)
    except zlib.error:
        whole = False
    if not whole:
        raise CheckpointError(
            f"tensor '{printable(tensor.name)}' does not inflate to the {tensor.nbytes:,} bytes that it claims; "
            "get the file again.",
            rule="F002",
        )


def _ends(inflater: zlib._Decompress, pending: bytes, mapping: mmap, position: int, end: int) -> bool:
    """Whether a stream that has given all it should gives nothing more, and ends where its record does."""
    while not inflater.eof:
        if not pending:
            pending = mapping[position : min(position + _BLOCK, end)]
            position += len(pending)
        if not pending or inflater.decompress(pending, 1):
            return False
        pending = inflater.unconsumed_tail
    return not inflater.unused_data and not pending and position == end


def inflated_head(file: FileBytes, start: int, end: int, count: int) -> bytes:
    """The first `count` bytes, or all when fewer, that a deflate stream inflates to.

    Raises:
        CheckpointError: `F002` when it is no deflate stream.
    """
    if not count:
        return b""  # to zlib, a limit of 0 is none
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file[start : min(end, start + count + _BLOCK)], count)
    except zlib.error:
        raise CheckpointError("a compressed record does not inflate; get the file again.", rule="F002") from None

"""A tensor's values as contiguous bytes, whatever its strides.

Elements are moved as opaque bytes of their size and never interpreted; torch's conj and neg bits flip sign bits. numpy
is imported only when a tensor does not lie contiguously in the file.
"""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

from manifest.checkpoint.tensors import StoredTensor

if TYPE_CHECKING:
    import numpy
    import numpy.typing

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


def can_negate(dtype: str) -> bool:
    """Whether torch's neg bit has a meaning for this type here."""
    return dtype in _SIGNED_PARTS


def can_conjugate(dtype: str) -> bool:
    """Whether torch's conj bit has a meaning for this type."""
    return "complex" in dtype


def gather(mapping: mmap, tensor: StoredTensor) -> memoryview:
    """A tensor's values, row-major and little-endian: a view of the mapping where possible, else a copy."""
    if not tensor.numel:
        return memoryview(b"")
    if tensor.contiguous and not tensor.conjugated and not tensor.negated:
        return memoryview(mapping)[tensor.offset : tensor.offset + tensor.nbytes]
    copied = _strided_copy(mapping, tensor)
    if tensor.conjugated or tensor.negated:
        _flip_signs(copied, tensor)
    return copied.data


def _strided_copy(mapping: mmap, tensor: StoredTensor) -> numpy.typing.NDArray[numpy.uint8]:
    """The elements as a contiguous array of bytes."""
    import numpy

    # Dimensions of one element say nothing, and numpy allows fewer dimensions than torch.
    dimensions = [(size, step) for size, step in zip(tensor.shape, tensor.stride, strict=True) if size != 1]
    view: numpy.ndarray = numpy.ndarray(
        shape=[size for size, _ in dimensions],
        dtype=f"V{tensor.itemsize}",
        buffer=mapping,
        offset=tensor.offset,
        strides=[step * tensor.itemsize for _, step in dimensions],
    )
    return numpy.array(view, order="C", copy=True).reshape(-1).view(numpy.uint8)


def _flip_signs(values: numpy.typing.NDArray[numpy.uint8], tensor: StoredTensor) -> None:
    """Apply the conj and neg bits: every number of these types has its sign in its highest bit.

    torch computes the same, but for a zero within a complex number, whose sign in torch depends on its place.
    """
    part = _SIGNED_PARTS[tensor.dtype]
    sign_bytes = values.reshape(-1, tensor.itemsize)[:, part - 1 :: part]
    if tensor.negated:
        sign_bytes ^= 0x80
    if tensor.conjugated:
        sign_bytes[:, 1] ^= 0x80

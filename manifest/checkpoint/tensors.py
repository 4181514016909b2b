"""Element types, and where a tensor lies in a file.

Types are called by torch's names without `torch.`, whatever a container calls them. Sizes come from `torch.dtype`,
the codes from the safetensors format, the storage classes from `torch/__init__.py`; values are never interpreted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

ITEM_SIZES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "float4_e2m1fn_x2": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "bcomplex32": 4,
    "complex64": 8,
    "complex128": 16,
    "bits8": 1,
    "bits1x8": 1,
    "bits2x4": 1,
    "bits4x2": 1,
    "bits16": 2,
}
"""Bytes of one element, by type. Quantized types are left out: their values need a scale from elsewhere."""

SAFETENSORS_CODES: dict[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F4": "float4_e2m1fn_x2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
}

STORAGE_CLASSES: dict[str, str] = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

SCRIPTED_STORAGE_CLASSES: dict[str, str] = {
    "ComplexHalfStorage": "complex32",
    "UInt16Storage": "uint16",
    "UInt32Storage": "uint32",
    "UInt64Storage": "uint64",
    "Float8_e4m3fnStorage": "float8_e4m3fn",
    "Float8_e4m3fnuzStorage": "float8_e4m3fnuz",
    "Float8_e5m2Storage": "float8_e5m2",
    "Float8_e5m2fnuzStorage": "float8_e5m2fnuz",
    "Float8_e8m0fnuStorage": "float8_e8m0fnu",
}
"""Classes that only TorchScript writes, by the rule of `c10/core/ScalarType.h`: Python has none of them."""

MOST_DIMENSIONS = 64
"""More than any torch build allows."""

MOST_TENSORS = 1_000_000


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint; how its values are stored is the matter of its kinds below.

    Attributes:
        name: As stored, with any wrapper prefix.
        dtype: torch's name without `torch.`, for example `bfloat16`.
        shape: `()` for a scalar.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return ITEM_SIZES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes of its values, which may be more or fewer than those of its storage."""
        return self.numel * self.itemsize


@dataclass(frozen=True, slots=True)
class StridedTensor(StoredTensor):
    """A tensor by the place of its values in a file.

    Attributes:
        stride: Steps between neighbours, in elements, one for each dimension.
        offset: Byte offset, from the start of the file, of element `[0, …, 0]`.
        storage: Byte range `[start, end)`, in the file, of the storage it is a view of.
        conjugated: Whether the stored values are to be conjugated, as torch's conj bit says.
        negated: Whether the stored values are to be negated, as torch's neg bit says.
        file: Which of the checkpoint's files it is in.
        swapped: Whether the stored numbers are big-endian.
        deflated: Whether the storage is a deflate stream; the offset is then within what it inflates to.
    """

    stride: tuple[int, ...]
    offset: int
    storage: tuple[int, int]
    conjugated: bool = False
    negated: bool = False
    file: int = 0
    swapped: bool = False
    deflated: bool = False

    @property
    def contiguous(self) -> bool:
        """Whether its elements lie row by row without gaps."""
        if 0 in self.shape:
            return True
        expected = 1
        for size, step in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and step != expected:
                return False
            expected *= size
        return True

    @property
    def place(self) -> str:
        """Where and how its values are stored; that of no other values. Text, whose hash no file can foresee."""
        bits = f"{self.conjugated} {self.negated}"
        return f"{self.file} {self.storage} {self.offset} {self.shape} {self.stride} {self.dtype} {bits}"

    @property
    def plain(self) -> bool:
        """Whether its values are, as they lie in the file, the bytes from `offset` on."""
        return self.contiguous and not (self.conjugated or self.negated or self.swapped or self.deflated)


@dataclass(frozen=True, slots=True)
class ChunkedTensor(StoredTensor):
    """A tensor that lies in pieces, possibly in several files.

    Attributes:
        chunks: Where each piece begins in the whole, in elements of each dimension, and the piece; together they cover
            the whole exactly once.
    """

    chunks: tuple[tuple[tuple[int, ...], StridedTensor], ...]


@dataclass(frozen=True, slots=True)
class CompositeTensor(StoredTensor):
    """A tensor that is stored as several others and has no plain values: a sparse or a quantized one.

    Attributes:
        layout: How the parts make the whole: `sparse_coo`, `sparse_csr`, …, `per_tensor_affine`, ….
        parts: By their role: `indices` and `values`, or `integers` and `scales`.
        facts: What else defines it, as text: a scale, a zero point, an axis.
    """

    layout: str
    parts: dict[str, StridedTensor]
    facts: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


def extents(tensor: StoredTensor) -> list[tuple[int, int, int]]:
    """Where a tensor's values lie: file, first byte, and the byte after the last; more where it is a view of more."""
    if isinstance(tensor, ChunkedTensor):
        return [extent for _, chunk in tensor.chunks for extent in extents(chunk)]
    if isinstance(tensor, CompositeTensor):
        return [extent for part in tensor.parts.values() for extent in extents(part)]
    assert isinstance(tensor, StridedTensor)
    if tensor.plain:
        return [(tensor.file, tensor.offset, tensor.offset + tensor.nbytes)]
    return [(tensor.file, *tensor.storage)]


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a contiguous tensor; those that torch gives to it."""
    strides: list[int] = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))

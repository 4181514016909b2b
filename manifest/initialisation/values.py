"""A checkpoint's values as numbers: decoded, sampled, and scanned for those that are not finite.

The layouts of the types are those of IEEE 754, of bfloat16 (the upper half of a float32) and of the float8 types of
OCP's specification and of `torch/headeronly/util/Float8_*.h`. Nothing here knows what a tensor is for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifest.checkpoint import Checkpoint, CompositeTensor, StoredTensor, StridedTensor

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[Any]

SAMPLE = 16_384
"""Values of a sample: the variance of as many normal ones is known to 5% and their distribution to 0.02, at 1e-6."""
_RUN = 256
"""Consecutive values of a sample: a kilobyte, so that a sample costs few pages of the file."""
_FAR_RUN = 4_096
"""The same of a file at an address, where each run is a request."""
FAR_SMALL = 1 << 16
"""Bytes of a tensor of such a file that is fetched whole."""
_MOST_GATHERED = 16 << 20
"""Bytes that are gathered for a sample of values that do not lie in the file one after the other."""
_SCANNED_AT_ONCE = 1 << 20
"""Bytes that two passes over them find in the processor's cache."""

_ROW = 8_192
"""Values for whose product BLAS starts no threads."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the bits of a floating-point type are laid out, its sign first.

    Attributes:
        bits: Unsigned integers of its size.
        special: The least pattern, without sign, that is infinite or no number.
        infinity: The pattern of infinity, without sign; None where the type has none.
        mantissa: Stored digits.
        negative_zero_is_nan: Whether that pattern, and no other, is no number.
        signed: Whether there is a sign.
    """

    bits: type[np.unsignedinteger[Any]]
    special: int
    infinity: int | None
    mantissa: int
    negative_zero_is_nan: bool = False
    signed: bool = True


_LAYOUTS = {
    "float64": _Layout(np.uint64, 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0000, 52),
    "float32": _Layout(np.uint32, 0x7F80_0000, 0x7F80_0000, 23),
    "float16": _Layout(np.uint16, 0x7C00, 0x7C00, 10),
    "bfloat16": _Layout(np.uint16, 0x7F80, 0x7F80, 7),
    "float8_e5m2": _Layout(np.uint8, 0x7C, 0x7C, 2),
    "float8_e4m3fn": _Layout(np.uint8, 0x7F, None, 3),
    "float8_e5m2fnuz": _Layout(np.uint8, 0x80, None, 2, negative_zero_is_nan=True),
    "float8_e4m3fnuz": _Layout(np.uint8, 0x80, None, 3, negative_zero_is_nan=True),
    "float8_e8m0fnu": _Layout(np.uint8, 0xFF, None, 0, signed=False),
}
_PARTS_OF_COMPLEX = {
    "complex32": "float16",
    "bcomplex32": "bfloat16",
    "complex64": "float32",
    "complex128": "float64",
}
_DECODED = {"float64", "float32", "float16", "bfloat16"}
FLOATING = frozenset({*_LAYOUTS, *_PARTS_OF_COMPLEX})
"""Types that can hold what is not finite."""


@dataclass(frozen=True)
class NotFinite:
    """What of a tensor is no finite number.

    Attributes:
        nans: How many values are no number.
        infinities: How many are infinite.
        first: Flat, row-major index of the first of them.
    """

    nans: int
    infinities: int
    first: int


@dataclass(frozen=True)
class Sample:
    """Some or all values of a tensor.

    Attributes:
        values: Their numbers, in stored order.
        whole: Whether they are all of the tensor's.
        dtype: The type that they were stored in, whose rounding they have.
    """

    values: Floats
    whole: bool
    dtype: str

    @property
    def constant(self) -> float | None:
        """The one number that all of them are, None when they differ or there are none."""
        first = float(self.values[0]) if self.values.size else None
        return first if first is not None and bool((self.values == first).all()) else None

    @property
    def least_normal(self) -> float:
        """The least positive number of the type that has all its digits."""
        return 2.0**-14 if self.dtype == "float16" else 2.0**-1022 if self.dtype == "float64" else 2.0**-126

    def half_spacings(self) -> Floats:
        """For each value, half the distance to its neighbours in its type: how far rounding can have moved it."""
        digits = _LAYOUTS[self.dtype].mantissa
        exponents = np.frexp(np.maximum(np.abs(self.values), self.least_normal))[1]
        halves: Floats = np.ldexp(1.0, exponents - 2 - digits)
        return halves


def sample(checkpoint: Checkpoint, tensor: StoredTensor, most: int = SAMPLE) -> Sample | None:
    """Values of a tensor in bounded time and memory: short runs that are spread over all of it.

    Returns:
        The sample; None for types other than the four that weights are trained in, and for tensors without values.
    """
    if tensor.dtype not in _DECODED or isinstance(tensor, CompositeTensor) or not tensor.numel:
        return None
    run = _FAR_RUN if checkpoint.mirror else _RUN
    bits = _at_hand(checkpoint, tensor, _run_bytes(tensor, most, run))
    whole = bits.size == tensor.numel and tensor.numel <= most
    if bits.size > most:
        runs = max(most // run, 1)
        step = bits.size // runs
        length = min(run, step, most)
        picked = np.lib.stride_tricks.as_strided(bits, (runs, length), (step * bits.itemsize, bits.itemsize))
        bits = picked.reshape(-1)
    return Sample(_decoded(bits, tensor.dtype), whole, tensor.dtype)


def expect_samples(checkpoint: Checkpoint) -> None:
    """Prepare to look at small tensors and at samples of the others: of a file at an address, these are fetched."""
    checkpoint.expect_samples()
    if checkpoint.mirror is None:
        return
    wanted: dict[int, list[tuple[int, int]]] = {}
    for tensor in checkpoint.tensors.values():
        if isinstance(tensor, StridedTensor) and tensor.plain:
            small = tensor.nbytes <= FAR_SMALL
            ranges = [(0, tensor.nbytes)] if small else _run_bytes(tensor, SAMPLE, _FAR_RUN)
            wanted.setdefault(tensor.file, []).extend(
                (tensor.offset + start, tensor.offset + end) for start, end in ranges
            )
    for file, ranges in wanted.items():
        checkpoint.files[file].need(ranges)


def _run_bytes(tensor: StoredTensor, most: int, run: int) -> list[tuple[int, int]]:
    """Which bytes of a tensor's values a sample takes."""
    if tensor.numel <= most:
        return [(0, tensor.nbytes)]
    runs = max(most // run, 1)
    step = tensor.numel // runs
    length = min(run, step, most)
    return [(at * step * tensor.itemsize, (at * step + length) * tensor.itemsize) for at in range(runs)]


def all_equal(checkpoint: Checkpoint, tensor: StoredTensor, values: Iterable[float]) -> bool:
    """Whether every value of a tensor is one and the same of some numbers; zeros of either sign are equal."""
    if tensor.dtype not in _DECODED or isinstance(tensor, CompositeTensor) or not tensor.numel:
        return False
    wanted = list(values)
    for bits in _pieces(checkpoint, tensor, _SCANNED_AT_ONCE):
        numbers = _decoded(bits, tensor.dtype)
        wanted = [value for value in wanted if bool((numbers == value).all())]
        if not wanted:
            return False
    return True


def squares_from(checkpoint: Checkpoint, tensor: StoredTensor, values: Iterable[float]) -> float:
    """The sum of squared distances of a tensor's values from one and the same of some numbers, whichever is nearest.

    What rounding to the tensor's type may have added or taken is not counted.
    """
    sums = dict.fromkeys(values, 0.0)
    for bits in _pieces(checkpoint, tensor, _SCANNED_AT_ONCE):
        some = Sample(_decoded(bits, tensor.dtype), whole=False, dtype=tensor.dtype)
        rounded = some.half_spacings()
        for value in sums:
            sums[value] += float(np.square(np.maximum(np.abs(some.values - value) - rounded, 0.0)).sum())
    return min(sums.values())


def numbers(checkpoint: Checkpoint, tensor: StoredTensor) -> Iterator[Floats] | None:
    """All values of a tensor, in order and in pieces; None of a type that weights are not trained in."""
    if tensor.dtype not in _DECODED or isinstance(tensor, CompositeTensor):
        return None
    return (_decoded(bits, tensor.dtype) for bits in _pieces(checkpoint, tensor, _SCANNED_AT_ONCE))


def constant(checkpoint: Checkpoint, tensor: StoredTensor) -> float | None:
    """The one number that every value of a tensor is; None when they differ."""
    some = sample(checkpoint, tensor, most=_RUN)
    value = None if some is None else some.constant
    return value if value is not None and all_equal(checkpoint, tensor, [value]) else None


def not_finite(checkpoint: Checkpoint, tensors: Mapping[str, StoredTensor]) -> dict[str, NotFinite]:
    """What is not finite in some tensors, by name: reads every byte of theirs, on two threads.

    A sum of squares is finite only where each of them is: one pass, at the speed of memory. In the shorter types, the
    whole numbers that floating-point numbers are in memory have the same order as they: in a piece without specials,
    the greatest is less than the least special one, whether a sign is read as a sign or as a digit. A piece that may
    have some is looked at again.
    """
    scanned = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor.dtype in FLOATING and not isinstance(tensor, CompositeTensor)
    }
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda tensor: _not_finite(checkpoint, tensor), scanned.values())
        return {name: some for name, some in zip(scanned, found, strict=True) if some}


def _not_finite(checkpoint: Checkpoint, tensor: StoredTensor) -> NotFinite | None:
    parts = 2 if tensor.dtype in _PARTS_OF_COMPLEX else 1
    layout = _LAYOUTS[_PARTS_OF_COMPLEX.get(tensor.dtype, tensor.dtype)]
    position = nans = infinities = 0
    first: int | None = None
    for bits in _pieces(checkpoint, tensor, _SCANNED_AT_ONCE):
        if _has_special(bits, layout):
            special, infinite = _specials(bits, layout)
            infinities += int(infinite.sum())
            nans += int(special.sum()) - int(infinite.sum())
            if first is None:
                first = (position + int(special.argmax())) // parts
        position += bits.size
    return None if first is None else NotFinite(nans, infinities, first)


def _has_special(bits: Bits, layout: _Layout) -> bool:
    if bits.itemsize >= 4 and math.isfinite(_sum_of_squares(bits.view(f"<f{bits.itemsize}"))):
        return False
    sign = 1 << (8 * bits.itemsize - 1)
    if layout.negative_zero_is_nan:
        return bool((bits == sign).any())
    if not layout.signed:
        return int(bits.max()) >= layout.special
    signed = bits.view(f"<i{bits.itemsize}")
    return int(signed.max()) >= layout.special or int(bits.max()) >= sign + layout.special


def _sum_of_squares(numbers: npt.NDArray[Any]) -> float:
    whole = numbers.size // _ROW * _ROW
    rows, rest = numbers[:whole].reshape(-1, _ROW), numbers[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.vecdot(rows, rows).sum() + np.dot(rest, rest))


def _specials(bits: Bits, layout: _Layout) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which values are not finite, and which are infinite."""
    sign = 1 << (8 * bits.itemsize - 1)
    if layout.negative_zero_is_nan:
        return bits == sign, np.zeros(bits.shape, bool)
    unsigned = bits & layout.bits(sign - 1) if layout.signed else bits
    infinite = np.zeros(bits.shape, bool) if layout.infinity is None else unsigned == layout.infinity
    return unsigned >= layout.special, infinite


def _pieces(checkpoint: Checkpoint, tensor: StoredTensor, size: int) -> Iterator[Bits]:
    """All bits of a tensor, in order, as unsigned numbers in pieces of at most `size` bytes."""
    for block in _aligned(checkpoint.blocks(tensor), tensor.itemsize):
        bits = _as_bits(block, tensor.dtype)
        count = max(size // bits.itemsize, 1)
        yield from (bits[start : start + count] for start in range(0, bits.size, count))


def _as_bits(data: memoryview | bytes, dtype: str) -> Bits:
    layout = _LAYOUTS[_PARTS_OF_COMPLEX.get(dtype, dtype)]
    return np.frombuffer(data, np.dtype(layout.bits).newbyteorder("<"))


def _aligned(blocks: Iterable[memoryview], itemsize: int) -> Iterator[memoryview | bytes]:
    """Blocks cut between values: what inflates may end anywhere."""
    rest = b""
    for block in blocks:
        if not rest and block.nbytes % itemsize == 0:
            yield block
            continue
        joined = rest + bytes(block)
        cut = len(joined) - len(joined) % itemsize
        rest = joined[cut:]
        if cut:
            yield joined[:cut]


def _at_hand(checkpoint: Checkpoint, tensor: StoredTensor, only: list[tuple[int, int]]) -> Bits:
    """A tensor's bits: all where they lie in the file as they are, the first ones where they must be gathered.

    Of those that lie in the file, only some ranges may be looked at.
    """
    if isinstance(tensor, StridedTensor) and tensor.plain:
        return _as_bits(checkpoint.values(tensor, only), tensor.dtype)
    pieces: list[Bits] = []
    gathered = 0
    for piece in _pieces(checkpoint, tensor, tensor.nbytes):
        pieces.append(piece)
        gathered += piece.nbytes
        if gathered >= _MOST_GATHERED:
            break
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _decoded(bits: Bits, dtype: str) -> Floats:
    with np.errstate(invalid="ignore"):  # a signalling NaN is no reason to complain here
        if dtype == "bfloat16":
            return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return bits.view(dtype).astype(np.float64)

"""Kinship sketches: a few numbers of a tensor, linear in its values, by which tensors are compared without either.

`docs/kinship.md` specifies the formula so that another program can compute it. A value is added, with a sign, to one
of 61 or 17 numbers. The signs come from BLAKE3's output stream and from no library's generator, and are the same for
every tensor of a size, so that a tensor keeps its sketch when it is renamed. What tensors are for is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from manifest.checkpoint import Checkpoint, CompositeTensor, StoredTensor
from manifest.digests import streamed_tensor_digest

Numbers = npt.NDArray[np.float64]
_Singles = npt.NDArray[np.float32]

DTYPES = frozenset({"float64", "float32", "float16", "bfloat16"})
"""Types that weights are trained in, of which there are sketches."""
MANY, FEW = 61, 17
"""Numbers of a large and of a small tensor; primes, so that a row and a column of a matrix meet all of them."""
MOST_VALUES, MOST_DIMENSIONS = 1 << 62, 64
"""Of a tensor that there can be; a manifest may claim any."""
LARGE_FROM = 8_192
"""Values of the smallest tensor that gets many numbers."""

_RUN = 67
"""Values of a row that are added to one number, and as many neighbours have one sign for the row; another prime."""
_ROWS_AT_ONCE = 64
"""Rows that several passes over them find in the processor's cache."""
_ROWS_OF_SIGNS = 4_096
_BITS_OF_HALF = np.int32(-0x7000_2000)
"""The sign, and the bits below it that a half has, after a shift by 13 that spread the sign: 0x8FFF_E000."""
_HALF_TO_SINGLE = np.float32(2.0**112)
_LARGEST_HALF = 65_504
_HEADER = "manifest/kinship/v1"


@dataclass(frozen=True)
class Sketch:
    """What is kept of one tensor.

    Attributes:
        numbers: Signed sums of its values.
        norm: Its Euclidean norm.
        zeros: How many of its values are zero.
    """

    numbers: Numbers
    norm: float
    zeros: int

    def is_possible(self, numel: int) -> bool:
        """Whether a tensor of so many values can have it: anybody may have written it down."""
        return (
            self.zeros <= numel < MOST_VALUES
            and math.isfinite(self.norm)
            and bool(self.numbers.any()) <= (self.norm > 0)
        )


def numbers_of(numel: int) -> int:
    """How many numbers a tensor of so many values has in its sketch."""
    return MANY if numel >= LARGE_FROM else FEW


def relative_variance(numel: int) -> float:
    """Of a squared distance that is estimated from sketches of so many values, over its square; zero where exact."""
    count = numbers_of(numel)
    return 0.0 if numel <= count else 2 / count


def run_of(numel: int) -> int:
    """How many values of a row are added to one number, in a tensor of so many values."""
    return min(_RUN, -(-numel // numbers_of(numel)))


def can_be_sketched(tensor: StoredTensor) -> bool:
    """Whether a tensor has plain values, one at least, of a type that weights are trained in."""
    return tensor.dtype in DTYPES and not isinstance(tensor, CompositeTensor) and tensor.numel > 0


def digest_and_sketch(checkpoint: Checkpoint, tensor: StoredTensor) -> tuple[str, Sketch | None]:
    """The digest and the sketch of a stored tensor in one pass, in bounded memory.

    There is no sketch of a tensor that cannot be sketched, or that holds what is not finite as a float32.
    """
    if not can_be_sketched(tensor):
        return checkpoint.digest(tensor), None
    sketching = Sketching(tensor.dtype, tensor.numel)
    blocks = sketching.passing(checkpoint.blocks(tensor))
    return streamed_tensor_digest(tensor.dtype, tensor.shape, blocks, tensor.nbytes), sketching.result()


@lru_cache(maxsize=256)
def numbers_of_ones(numel: int) -> Numbers:
    """The numbers of a tensor whose every value is one."""
    count, run = numbers_of(numel), run_of(numel)
    rows, rest = divmod(numel, count * run)
    sums = np.zeros(count)
    for start in range(0, rows, _ROWS_OF_SIGNS):
        signs = _row_signs(count, run, start // _ROWS_OF_SIGNS)
        sums += signs[:, : rows - start].sum(axis=1, dtype=np.float64)
    columns = np.repeat(sums, run)
    if rest:
        last = _row_signs(count, run, rows // _ROWS_OF_SIGNS)[:, rows % _ROWS_OF_SIGNS]
        columns[:rest] += np.repeat(last, run)[:rest]
    numbers: Numbers = (columns * _column_signs(count, run)).reshape(run, count).sum(axis=0)
    return numbers


class Sketching:
    """A sketch of values that come in consecutive blocks.

    Args:
        dtype: Their type.
        numel: How many there are.
    """

    def __init__(self, dtype: str, numel: int) -> None:
        self._dtype, self._numel = dtype, numel
        self._count, self._run = numbers_of(numel), run_of(numel)
        self._columns = np.zeros((self._count, self._run))
        self._squares = 0.0
        self._others = 0  # values that are not zero
        self._rows = 0
        width = self._count * self._run
        rows = min(_ROWS_AT_ONCE, -(-numel // width))
        self._row = np.zeros(width, np.float32)
        self._held = 0  # values of a row that is not whole yet
        self._rest = b""
        self._singles = np.empty(rows * width, np.float32)
        self._is_other = np.empty((rows, width), np.bool_)

    def passing(self, blocks: Iterator[memoryview]) -> Iterator[memoryview]:
        """The same blocks, each of them added on its way."""
        for block in blocks:
            self.add(block)
            yield block

    def add(self, block: memoryview) -> None:
        """Add the next bytes; what inflates may be cut within a value."""
        kind = np.dtype("<u2") if self._dtype == "bfloat16" else np.dtype(self._dtype).newbyteorder("<")
        data: memoryview | bytes = block
        if self._rest or block.nbytes % kind.itemsize:
            joined = self._rest + bytes(block)
            cut = len(joined) - len(joined) % kind.itemsize
            data, self._rest = joined[:cut], joined[cut:]
        values = np.frombuffer(data, kind)
        with np.errstate(over="ignore", invalid="ignore"):
            if self._dtype == "float32":
                self._add_singles(values)
                return
            while values.size:
                size = self._singles.size - self._held  # so that what follows begins with a row
                part, values = values[:size], values[size:]
                singles = self._singles[: part.size]
                _decode(part, self._dtype, singles)
                self._add_singles(singles)

    def result(self) -> Sketch | None:
        """The sketch of all that was added; None if a value was not finite."""
        if self._held:
            self._row[self._held :] = 0
            self._add_rows(self._row[None])
            self._held = 0
        with np.errstate(over="ignore", invalid="ignore"):
            columns = self._columns.reshape(-1) * _column_signs(self._count, self._run)
            numbers = columns.reshape(self._run, self._count).sum(axis=0)
        if not (np.isfinite(numbers).all() and np.isfinite(self._squares)):
            return None
        return Sketch(numbers, float(np.sqrt(self._squares)), self._numel - self._others)

    def _add_singles(self, values: _Singles) -> None:
        """Add values as rows, where they lie if possible."""
        width = self._row.size
        start = min(width - self._held, values.size) if self._held else 0
        self._row[self._held : self._held + start] = values[:start]
        self._held += start
        if self._held == width:
            self._add_rows(self._row[None])
            self._held = 0
        whole = (values.size - start) // width * width
        self._add_rows(values[start : start + whole].reshape(-1, width))
        rest = values[start + whole :]
        self._row[self._held : self._held + rest.size] = rest
        self._held += rest.size

    def _add_rows(self, rows: _Singles) -> None:
        start = 0
        while start < len(rows):
            signs = _row_signs(self._count, self._run, self._rows // _ROWS_OF_SIGNS)
            place = self._rows % _ROWS_OF_SIGNS
            size = min(_ROWS_AT_ONCE, len(rows) - start, _ROWS_OF_SIGNS - place)
            piece = rows[start : start + size]
            if size == 1:
                self._columns += signs[:, place, None] * piece.reshape(self._count, self._run)
            else:
                by_run = piece.reshape(size, self._count, self._run).transpose(1, 0, 2)
                self._columns += np.matmul(signs[:, None, place : place + size], by_run)[:, 0, :]
            self._squares += float(np.vecdot(piece, piece).sum(dtype=np.float64))
            self._others += int(np.count_nonzero(np.not_equal(piece, 0, out=self._is_other[:size])))
            self._rows += size
            start += size


def _decode(values: npt.NDArray[Any], dtype: str, into: _Singles) -> None:
    """Values of another type as float32, infinite where they are not finite in float16.

    numpy takes three times as long for halves. Here the bits of a half are moved to where a float32 has them, which is
    then too small by the difference of the exponents' biases, for subnormal halves too.
    """
    bits = into.view(np.int32)
    if dtype == "bfloat16":
        np.left_shift(values, 16, out=into.view(np.uint32), dtype=np.uint32)
    elif dtype == "float16":
        np.left_shift(values.view("<i2"), 13, out=bits, dtype=np.int32)
        np.bitwise_and(bits, _BITS_OF_HALF, out=bits)
        np.multiply(into, _HALF_TO_SINGLE, out=into)
        if max(into.max(), -into.min()) > _LARGEST_HALF:
            into[np.abs(into) > _LARGEST_HALF] = np.inf
    else:
        np.copyto(into, values, casting="same_kind")


@lru_cache(maxsize=64)
def _row_signs(count: int, run: int, block: int) -> _Singles:
    """The sign of each row for each run of columns, of `_ROWS_OF_SIGNS` rows: eight bytes of the stream for a row."""
    stream = blake3(f"{_HEADER}\nrows\n{count} {run}\n".encode())
    data = stream.digest(length=8 * _ROWS_OF_SIGNS, seek=8 * _ROWS_OF_SIGNS * block)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(_ROWS_OF_SIGNS, 64)[:, :count]
    return np.ascontiguousarray(bits.T.astype(np.float32) * 2 - 1)


@lru_cache(maxsize=256)
def _column_signs(count: int, run: int) -> Numbers:
    """The sign of each column of a row."""
    data = blake3(f"{_HEADER}\ncolumns\n{count} {run}\n".encode()).digest(length=-(-count * run // 8))
    return np.unpackbits(np.frombuffer(data, np.uint8))[: count * run].astype(np.float64) * 2 - 1

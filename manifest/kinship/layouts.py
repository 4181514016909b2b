"""Many sets of weights side by side: those of one model are rows of numbers, and its tensors are the columns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from manifest.kinship.distances import is_telling
from manifest.kinship.sketch import MOST_DIMENSIONS, MOST_VALUES, Sketch, numbers_of
from manifest.kinship.subjects import Subject, Tensor
from manifest.schema.document import Digest

_PREFIX = "blake3:"


class Column(NamedTuple):
    """One tensor of a model.

    Attributes:
        name: The model's own.
        shape: Its sizes.
        dtype: Its element type.
        role: The component that it belongs to; None of one that belongs to none.
        sketched: Whether it has a sketch.
    """

    name: str
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=MOST_VALUES)], ...], Field(max_length=MOST_DIMENSIONS)]
    dtype: str
    role: str | None
    sketched: bool

    @property
    def values(self) -> int:
        return math.prod(self.shape)


Layout = tuple[Column, ...]


class Entry(NamedTuple):
    """One set of weights.

    Attributes:
        name: What it is called.
        weights: The weights digest.
        parents: Weights digests of those that they were trained from, as far as that is on record.
    """

    name: str
    weights: Digest
    parents: tuple[Digest, ...]


@dataclass(frozen=True)
class Batch:
    """Some sets of weights of one layout.

    Attributes:
        layout: Their tensors.
        numbers: Those of their sketches, of shape `(sets, numbers)`.
        entries: What they are.
        subject: Gives the one of a number, whole.
    """

    layout: Layout
    numbers: npt.NDArray[np.floating[Any]]
    entries: Sequence[Entry]
    subject: Callable[[int], Subject]


def layout_of(subject: Subject) -> Layout:
    """The tensors of some weights."""
    return tuple(
        Column(each.name, each.shape, each.dtype, subject.roles.get(each.name), each.sketch is not None)
        for each in subject.tensors.values()
    )


def entry_of(subject: Subject) -> Entry:
    return Entry(subject.name, subject.weights, tuple(sorted(subject.parents)))


def batch_of(subject: Subject) -> Batch:
    """One set of weights by itself."""
    parts = [each.sketch.numbers for each in subject.tensors.values() if each.sketch is not None]
    numbers = np.concatenate(parts)[None] if parts else np.zeros((1, 0))
    return Batch(layout_of(subject), numbers, [entry_of(subject)], lambda _: subject)


def row_size(layout: Layout) -> int:
    """Bytes of one set of weights as it is stored."""
    return sum(32 + each.sketched * (16 + 4 * numbers_of(each.values)) for each in layout)


def row_type(layout: Layout) -> np.dtype[np.void]:
    """How one set of weights is stored: digests of all tensors; norms, zeros and numbers of those with sketches."""
    sketched = [each for each in layout if each.sketched]
    numbers = sum(numbers_of(each.values) for each in sketched)
    return np.dtype(
        [
            ("digests", "u1", (len(layout), 32)),
            ("norms", "<f8", (len(sketched),)),
            ("zeros", "<u8", (len(sketched),)),
            ("numbers", "<f4", (numbers,)),
        ]
    )


def row_of(subject: Subject, layout: Layout) -> npt.NDArray[np.void]:
    """Some weights as they are stored."""
    tensors = subject.tensors.values()
    sketches = [each.sketch for each in tensors if each.sketch is not None]
    row = np.zeros(1, row_type(layout))
    digests = b"".join(bytes.fromhex(each.digest.removeprefix(_PREFIX)) for each in tensors)
    row["digests"] = np.frombuffer(digests, np.uint8).reshape(len(layout), 32)
    if sketches:
        row["norms"] = [each.norm for each in sketches]
        row["zeros"] = [each.zeros for each in sketches]
        row["numbers"] = np.concatenate([each.numbers for each in sketches])
    return row


def subject_of(row: np.void, layout: Layout, entry: Entry) -> Subject | None:
    """Stored weights as they were; None where no weights have such sketches."""
    if not np.isfinite(row["numbers"]).all():
        return None
    tensors: dict[str, Tensor] = {}
    start, norms, zeros = 0, iter(row["norms"].tolist()), iter(row["zeros"].tolist())
    for column, digest in zip(layout, row["digests"], strict=True):
        sketch = None
        if column.sketched:
            end = start + numbers_of(column.values)
            sketch = Sketch(row["numbers"][start:end].astype(np.float64), next(norms), next(zeros))
            if not sketch.is_possible(column.values):
                return None
            start = end
        name = f"{_PREFIX}{digest.tobytes().hex()}"
        tensors[column.name] = Tensor(column.name, column.shape, column.dtype, name, sketch)
    roles = {each.name: each.role for each in layout if each.role is not None}
    return Subject(entry.name, tensors, roles, entry.weights, frozenset(entry.parents))


class Sought:
    """The sketches of some weights, as they are searched for among many.

    Args:
        subject: The weights.
    """

    def __init__(self, subject: Subject) -> None:
        self._own = {each.name: each for each in subject.tensors.values() if is_telling(each)}
        self._places: tuple[Layout, _Places] | None = None

    def alike(self, batch: Batch) -> npt.NDArray[np.floating[Any]]:
        """The mean cosine of the matrices of each set of weights; a matrix that it has not counts as unlike."""
        if self._places is None or self._places[0] != batch.layout:
            self._places = (batch.layout, self._in(batch.layout))
        places = self._places[1]
        if not places.starts:
            return np.zeros(len(batch.entries))
        numbers = batch.numbers[:, places.columns]
        with np.errstate(all="ignore"):  # anybody may have written them
            squares = np.add.reduceat(numbers * numbers, places.starts, axis=1)
            cosines = np.add.reduceat(numbers * places.directions, places.starts, axis=1) / np.sqrt(squares)
        cosines[~np.isfinite(cosines)] = 0
        found: npt.NDArray[np.floating[Any]] = cosines.sum(axis=1) / len(self._own)
        return found

    def _in(self, layout: Layout) -> _Places:
        """Where the matrices are among the numbers of a layout."""
        columns, directions, starts, start, count = [], [], [], 0, 0
        for column in layout:
            if not column.sketched:
                continue
            end = start + numbers_of(column.values)
            own = self._own.get(column.name)
            if own is not None and own.sketch is not None and own.shape == column.shape:
                length = float(np.linalg.norm(own.sketch.numbers))
                columns.append(np.arange(start, end))
                directions.append(own.sketch.numbers / (length or 1.0))
                starts.append(count)
                count += end - start
            start = end
        if not starts:
            return _Places(np.zeros(0, np.intp), np.zeros(0, np.float32), [])
        return _Places(np.concatenate(columns), np.concatenate(directions).astype(np.float32), starts)


class _Places(NamedTuple):
    """Columns of numbers, what they are multiplied by, and where each matrix begins among them."""

    columns: npt.NDArray[np.intp]
    directions: npt.NDArray[np.float32]
    starts: list[int]

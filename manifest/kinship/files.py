"""What two files tell of their kinship that sketches cannot: exact rounding, grids of int8, ranks, orders of units, and
interpolated tables.

Of large weights, some matrices are looked at, spread over all that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from manifest.escaping import printable
from manifest.initialisation.values import numbers
from manifest.kinship.answers import PairAnswer, Relation
from manifest.kinship.distances import Compared
from manifest.kinship.pairs import Pair, answer, is_table
from manifest.kinship.subjects import Subject, Tensor
from manifest.schema.name_ranges import listed

Values = npt.NDArray[np.float64]

_MOST_MATRICES = 8
_MOST_ROWS = 32
_MOST_VALUES = 1 << 26
"""Of a tensor that is looked at."""
_LEVELS = 256
_ON_GRID = 0.05
"""Of a step of a grid, how far a value may be off by the rounding of float32."""
_PROJECTED_TO = 256
"""Columns that a matrix is multiplied to, at random, before its rank is told."""
_DIGITS = {"float32": 24, "float64": 24, "bfloat16": 8, "float16": 11}
_FARTHEST_ROUNDED = 2.0**-8
"""Relative distance beyond which no tensor is from itself in bfloat16."""
_SAME_NORM = 1e-5
_LIKE = 0.8
"""Cosine of a table and another that is interpolated to its size, beyond which it comes from it."""
_GRIDS_BESIDE = (0, 1, 2)
"""Positions of a table that are no place in the image."""


def with_files(pair: Pair, found: PairAnswer) -> PairAnswer:
    """An answer out of sketches, confirmed or made more exact by the files; as it is where they are not at hand."""
    if not pair.files:
        return found
    if found.relation in _CONFIRMED:
        if _CONFIRMED[found.relation](pair):
            return replace(
                found, sentence=f"{found.sentence[:-1]}; the files confirm it.", evidence={"files": "confirm"}
            )
        return with_files(pair, answer(pair, but=frozenset({found.relation})))
    tables = _with_tables(pair, found)
    for look in (_exactly_rounded, _on_a_grid, _of_low_rank, _ordered):
        if (better := look(pair, tables)) is not None:
            return better
    return tables


def _rounded(pair: Pair) -> bool:
    return any(
        all(_is_rounded(pair, each, copy, dtype) for each in pair.changed)
        for copy in (True, False)
        for dtype in ("bfloat16", "float16")
    )


def _is_rounded(pair: Pair, each: Compared, first_is_copy: bool, dtype: str) -> bool:
    """Whether every value of a tensor is that of the other, rounded to the nearest of a type."""
    copy, of = _pieces(pair.one, each.one), _pieces(pair.other, each.other)
    if not first_is_copy:
        copy, of = of, copy
    round_to = _to_bfloat16 if dtype == "bfloat16" else _to_float16
    return all(np.array_equal(a, round_to(b.astype(np.float32))) for a, b in _side_by_side(copy, of))


def _to_bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) & np.uint32(0xFFFF0000)
    return rounded.astype(np.uint32).view(np.float32)


def _to_float16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _pruned(pair: Pair) -> bool:
    def kept(each: Compared, sparse_is_first: bool) -> bool:
        sparse, whole = _pieces(pair.one, each.one), _pieces(pair.other, each.other)
        if not sparse_is_first:
            sparse, whole = whole, sparse
        return all(bool(((a == 0) | (a == b)).all()) for a, b in _side_by_side(sparse, whole))

    return any(all(kept(each, first) for each in pair.changed) for first in (True, False))


def _permuted(pair: Pair) -> bool:
    return all(_same_rows(pair, each) for each in _some(pair.changed))


_CONFIRMED: dict[Relation, Callable[[Pair], bool]] = {
    Relation.ROUNDED: _rounded,
    Relation.PRUNED: _pruned,
    Relation.PERMUTED: _permuted,
}


def _exactly_rounded(pair: Pair, found: PairAnswer) -> PairAnswer | None:
    """A copy through a shorter type that is not as far from the other as rounding usually is: one of few digits."""
    near = found.distance is not None and found.distance < _FARTHEST_ROUNDED
    if found.relation is not Relation.SAME_START or not near or pair.reshaped or not _rounded(pair):
        return None
    sentence = "One is a copy of the other through a shorter type: each value is the other's, rounded."
    refuted = "a value of the one that is not that of the other rounded"
    return replace(found, relation=Relation.ROUNDED, sentence=sentence, refuted_by=refuted, files_tell="")


def _on_a_grid(pair: Pair, found: PairAnswer) -> PairAnswer | None:
    """A copy through int8: the values of each row are whole numbers of a step, and half a step from the other's."""
    matrices = _matrices(pair.changed)
    if found.relation is not Relation.SAME_START or not matrices:
        return None
    for copy, of, first in ((pair.one, pair.other, True), (pair.other, pair.one, False)):
        if all(_in_steps(pair, each, first) for each in _some(matrices)):
            names = printable(listed([each.one.name for each in matrices]), 300)
            sentence = (
                f"{copy.name} is a copy of {of.name} through int8: {len(matrices)} matrices are on grids ({names})."
            )
            refuted = "a row with more than 256 values, or one more than half a step from the other's"
            return replace(found, relation=Relation.ROUNDED, sentence=sentence, refuted_by=refuted, files_tell="")
    return None


def _in_steps(pair: Pair, each: Compared, first_is_copy: bool) -> bool:
    one, other = _rows(pair.one, each.one), _rows(pair.other, each.other)
    if one is None or other is None:
        return False
    copy, of = (one, other) if first_is_copy else (other, one)
    return all(_row_in_steps(copy[row], of[row]) for row in _spread(len(copy), _MOST_ROWS))


def _row_in_steps(copy: Values, of: Values) -> bool:
    levels = np.unique(copy)
    if not 2 < levels.size <= _LEVELS:
        return False
    step = float(np.diff(levels).min())
    whole = np.abs(copy / step - np.rint(copy / step)).max()
    within = np.abs(copy - of) <= (0.5 + _ON_GRID) * step
    return bool(np.ptp(levels) / step <= _LEVELS and whole <= _ON_GRID and within.mean() > 0.99)


def _of_low_rank(pair: Pair, found: PairAnswer) -> PairAnswer | None:
    """Differences of a low rank, where nothing but matrices differs: a merged LoRA."""
    if found.relation is not Relation.SAME_START or pair.reshaped or not all(e.one.is_matrix for e in pair.changed):
        return None
    ranks = [_rank(pair, each) for each in _some(pair.changed)]
    known = [rank for rank in ranks if rank is not None]
    if not known or len(known) != len(ranks) or max(known) == 0:
        return None
    names = printable(listed([each.one.name for each in pair.changed]), 300)
    rank = f"{min(known)}" if min(known) == max(known) else f"{min(known)} to {max(known)}"
    sentence = (
        f"They differ by matrices of rank {rank}, as a merged LoRA: {len(pair.changed)} of {len(pair.both)} tensors "
        f"changed ({names})."
    )
    return replace(
        found,
        relation=Relation.LOW_RANK,
        sentence=sentence,
        refuted_by="a difference with more singular values than that beyond rounding",
        files_tell="",
        evidence={"ranks": known},
    )


def _rank(pair: Pair, each: Compared) -> int | None:
    """The rank of a difference, as far as rounding leaves it; None where it is not low."""
    one, other = _rows(pair.one, each.one), _rows(pair.other, each.other)
    if one is None or other is None:
        return None
    difference = one - other
    rows, columns = difference.shape
    width = min(columns, _PROJECTED_TO)
    if columns > width:
        random = np.random.default_rng(0).standard_normal((columns, width)) / math.sqrt(width)
        difference = difference @ random
    digits = min(_DIGITS.get(each.one.dtype, 24), _DIGITS.get(each.other.dtype, 24))
    size = max(float(np.abs(one).max()), float(np.abs(other).max()))
    noise = size * 2.0**-digits * (math.sqrt(rows) + math.sqrt(max(columns, width)))
    rank = int((np.linalg.svd(difference, compute_uv=False) > noise).sum())
    return rank if rank <= min(rows, width) // 2 else None


def _ordered(pair: Pair, found: PairAnswer) -> PairAnswer | None:
    """Units in another order: each matrix has the same norms of rows, sorted."""
    matrices = _some(_matrices(pair.changed))
    if found.relation is not Relation.UNRELATED or len(matrices) < 2:
        return None
    if not all(_same_rows(pair, each) for each in matrices):
        return None
    sentence = (
        "The same weights with units in another order: the norms of the rows of each matrix are the same, sorted."
    )
    return replace(
        found, relation=Relation.PERMUTED, sentence=sentence, refuted_by="other norms of rows", files_tell=""
    )


def _same_rows(pair: Pair, each: Compared) -> bool:
    one, other = _rows(pair.one, each.one), _rows(pair.other, each.other)
    if one is None or other is None:
        return False
    norms = [np.sort(np.linalg.norm(each, axis=1)) for each in (one, other)]
    return bool(np.allclose(norms[0], norms[1], rtol=_SAME_NORM, atol=_SAME_NORM * float(norms[0].max())))


def _with_tables(pair: Pair, found: PairAnswer) -> PairAnswer:
    """The same, with what became of tables of positions that have another size."""
    notes = list(found.notes)
    for name, (one, other) in pair.reshaped.items():
        if is_table(name, one, other):
            likeness = _interpolated(pair.one, one, pair.other, other)
            if likeness is None:
                continue
            how = "interpolated from the other" if likeness >= _LIKE else "not interpolated from the other, but new"
            notes.append(f"{printable(name, 200)} is {how}: alike by {likeness:.2f} in its size.")
    return replace(found, notes=tuple(notes), files_tell="" if found.relation is Relation.RESIZED else found.files_tell)


def _interpolated(one: Subject, now: Tensor, other: Subject, was: Tensor) -> float | None:
    """How alike a table is to another that is linearly interpolated to its size; None where they are no such tables."""
    after, before = _rows(one, now, last=True), _rows(other, was, last=True)
    if after is None or before is None or after.shape[1] != before.shape[1]:
        return None
    found = []
    for beside in _GRIDS_BESIDE:
        sides = [math.isqrt(len(each) - beside) for each in (after, before)]
        if all(side > 1 and side**2 == len(each) - beside for side, each in zip(sides, (after, before), strict=True)):
            grid = before[beside:].reshape(sides[1], sides[1], -1)
            resized = _resampled(_resampled(grid, sides[0]).swapaxes(0, 1), sides[0]).swapaxes(0, 1)
            found.append(_cosine(after[beside:], resized.reshape(sides[0] ** 2, -1)))
    found.append(_cosine(after, _resampled(before, len(after))))
    shorter = min(len(after), len(before))
    found.append(_cosine(after[:shorter], before[:shorter]))
    return max(found)


def _resampled(table: Values, size: int) -> Values:
    """A table along its first axis, linearly interpolated between the middles of its cells."""
    at = np.clip((np.arange(size) + 0.5) * len(table) / size - 0.5, 0, len(table) - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, len(table) - 1)
    share = (at - low).reshape(-1, *[1] * (table.ndim - 1))
    resampled: Values = table[low] * (1 - share) + table[high] * share
    return resampled


def _cosine(one: Values, other: Values) -> float:
    a, b = one - one.mean(axis=0), other - other.mean(axis=0)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / lengths if lengths else 0.0


def _matrices(changed: Iterable[Compared]) -> list[Compared]:
    return [each for each in changed if each.one.is_matrix]


def _some(changed: Sequence[Compared]) -> list[Compared]:
    """Some of many, spread over all."""
    return [changed[index] for index in _spread(len(changed), _MOST_MATRICES)]


def _spread(count: int, most: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, most))}) if count else []


def _pieces(subject: Subject, tensor: Tensor) -> Iterable[Values]:
    assert subject.stored is not None
    return numbers(subject.stored, subject.stored.tensors[tensor.name]) or ()


def _side_by_side(one: Iterable[Values], other: Iterable[Values]) -> Iterable[tuple[Values, Values]]:
    """Two sequences of pieces, cut alike."""
    left, right = np.empty(0), np.empty(0)
    first, second = iter(one), iter(other)
    while True:
        left = left if left.size else next(first, left)
        right = right if right.size else next(second, right)
        count = min(left.size, right.size)
        if not count:
            return
        yield left[:count], right[:count]
        left, right = left[count:], right[count:]


def _rows(subject: Subject, tensor: Tensor, *, last: bool = False) -> Values | None:
    """The values of a tensor as a matrix, by its first or its last dimension; None of one that is too large."""
    values = math.prod(tensor.shape)
    if not tensor.shape or values > _MOST_VALUES or tensor.sketch is None:
        return None
    whole = np.concatenate(list(_pieces(subject, tensor)))
    return whole.reshape(-1, tensor.shape[-1]) if last else whole.reshape(tensor.shape[0], -1)

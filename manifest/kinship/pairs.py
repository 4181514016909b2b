"""How two sets of weights are related, from their sketches alone.

Each relation is a function that says whether the numbers are as it makes them, and the first that fits is the answer:
the more a relation demands, the earlier it is asked. What files tell besides is in `files`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from manifest.escaping import printable
from manifest.kinship.answers import PairAnswer, Part, Relation, State
from manifest.kinship.distances import ROUNDING, Compared, Together, compared, together
from manifest.kinship.roundings import rounded_to
from manifest.kinship.subjects import Subject, Tensor
from manifest.schema.name_ranges import listed
from manifest.schema.vocabulary import role_words

SURE = 6.0
"""Standard errors beyond which matrices are alike by no chance: one in a billion."""
_SURE_OF_A_PART = 4.5
_SURE_OF_PRUNING, _SURE_OF_ONE = 4.0, 7.0
_NORM_IS_SAME = 3e-6
_FAR = 0.02
"""Relative distance of a matrix beyond which training changes its norm by more than that."""
_FEWEST_PERMUTED = 2
_SHARE_PERMUTED = 0.9
_MOST_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """Two sets of weights, tensor by tensor.

    Attributes:
        one: The one that is asked about.
        other: What it is compared with.
        both: Tensors that both have in one shape, by name.
        reshaped: Those that they have in two shapes, as the first and as the second has them.
        only_one: Names that only the first has.
        only_other: Names that only the second has.
    """

    one: Subject
    other: Subject
    both: Mapping[str, Compared]
    reshaped: Mapping[str, tuple[Tensor, Tensor]]
    only_one: Sequence[str]
    only_other: Sequence[str]

    @property
    def changed(self) -> list[Compared]:
        return [each for each in self.both.values() if not each.same]

    @property
    def files(self) -> bool:
        """Whether both files are at hand."""
        return self.one.stored is not None and self.other.stored is not None


def paired(one: Subject, other: Subject) -> Pair:
    """Two sets of weights by the names that they have in common."""
    shared = [name for name in one.tensors if name in other.tensors]
    pairs = {name: (one.tensors[name], other.tensors[name]) for name in shared}
    return Pair(
        one,
        other,
        {name: compared(*two) for name, two in pairs.items() if two[0].shape == two[1].shape},
        {name: two for name, two in pairs.items() if two[0].shape != two[1].shape},
        [name for name in one.tensors if name not in other.tensors],
        [name for name in other.tensors if name not in one.tensors],
    )


def answer(pair: Pair, but: frozenset[Relation] = frozenset()) -> PairAnswer:
    """How two sets of weights are related, as far as sketches tell.

    Args:
        pair: The two.
        but: What the files have shown not to be so.
    """
    everything = together(pair.both.values())
    parts = _parts(pair)
    asked = (ask(_Seen(pair, everything, parts)) for ask in _ASKED)
    found = next(each for each in asked if each is not None and each.relation not in but)
    return PairAnswer(
        one=pair.one.name,
        other=pair.other.name,
        relation=found.relation,
        sentence=found.sentence,
        parts=parts if found.relation is not Relation.INCOMPARABLE else (),
        distance=everything.distance if pair.both else None,
        error=everything.error if pair.both else None,
        likeness=everything.likeness,
        sureness=everything.sureness,
        refuted_by=found.refuted_by,
        files_tell="" if pair.files else found.files_tell,
        notes=tuple(_notes(pair)),
    )


@dataclass(frozen=True)
class _Seen:
    """Two sets of weights, all of them together, and by component."""

    pair: Pair
    everything: Together
    parts: tuple[Part, ...]


class _Found(NamedTuple):
    """The relation, a sentence, what would refute it, and what the files would tell."""

    relation: Relation
    sentence: str
    refuted_by: str
    files_tell: str = ""


def _incomparable(seen: _Seen) -> _Found | None:
    pair = seen.pair
    if any(each.squares is not None for each in pair.both.values()) or (pair.both and not pair.changed):
        return None
    sentence = "They have no tensor of one name and shape in common, so nothing can be said."
    return _Found(Relation.INCOMPARABLE, sentence, "names under which they have the same tensors", "")


def _identical(seen: _Seen) -> _Found | None:
    pair = seen.pair
    if pair.changed or pair.reshaped:
        return None
    if all(each.one.digest == each.other.digest for each in pair.both.values()):
        sentence = "The same weights"
        refuted = "another digest of the files: `manifest verify`"
    else:
        sentence = "The same weights in another type, without loss"
        refuted = "a value that differs when both are loaded"
    if pair.only_one or pair.only_other:
        sentence += " in all tensors that both have"
    return _Found(Relation.IDENTICAL, f"{sentence}.", refuted, "")


def _rounded(seen: _Seen) -> _Found | None:
    pair, everything = seen.pair, seen.everything
    if pair.reshaped or any(each.same and each.likeness is not None for each in pair.both.values()):
        return None  # a matrix that rounding left as it is
    dtype = rounded_to(pair.changed)
    if dtype is None:
        return None
    kinds = [{each.one.dtype for each in pair.changed}, {each.other.dtype for each in pair.changed}]
    shorter = [kind <= {dtype} for kind in kinds]
    if shorter[0] != shorter[1]:
        copy, of = (pair.one.name, pair.other.name) if shorter[0] else (pair.other.name, pair.one.name)
        sentence = f"{copy} is a copy of {of} in {dtype}"
    else:
        sentence = f"One is a copy of the other through {dtype}"
    sentence += f": they are apart by {_size(everything)}, which is what rounding to it makes."
    refuted = f"a value of the one that is not that of the other rounded to {dtype}"
    return _Found(Relation.ROUNDED, sentence, refuted, f"whether each value is the other's rounded to {dtype}")


def _pruned(seen: _Seen) -> _Found | None:
    pair = seen.pair
    if pair.reshaped or not pair.changed:
        return None
    for sparse, first in ((pair.one, True), (pair.other, False)):
        if all(_is_pruned([each], first, _SURE_OF_ONE) for each in pair.changed) and _is_pruned(
            pair.changed, first, _SURE_OF_PRUNING
        ):
            kept = pair.other if first else pair.one
            zeros = [_zeros(each, first) for each in pair.changed]
            share = sum(zeros) / sum(each.values for each in pair.changed)
            names = _listed([each.one.name for each in pair.changed])
            sentence = (
                f"{sparse.name} is {kept.name} with {share:.1%} of the values of {len(pair.changed)} tensors set to "
                f"zero and all others kept: {names}."
            )
            return _Found(
                Relation.PRUNED, sentence, "a value that is neither zero nor as it was", "whether each kept value is"
            )
    return None


def _zeros(each: Compared, first: bool) -> int:
    sketch = each.one.sketch if first else each.other.sketch
    return 0 if sketch is None else sketch.zeros


def _is_pruned(some: Sequence[Compared], first: bool, sure: float) -> bool:
    """Whether the difference is what the norm lost, as it is where values become zero and the others stay."""
    lost = squares = spread = rounding = 0.0
    for each in some:
        sparse, whole = (each.one.sketch, each.other.sketch) if first else (each.other.sketch, each.one.sketch)
        if sparse is None or whole is None or each.squares is None or sparse.zeros <= whole.zeros:
            return False
        lost += whole.norm**2 - sparse.norm**2
        squares += each.squares
        spread += (each.error * each.squares) ** 2
        rounding += 2 * ROUNDING * whole.norm**2
    return abs(squares - lost) <= sure * math.sqrt(spread) + rounding


def _resized(seen: _Seen) -> _Found | None:
    pair = seen.pair
    tables = [name for name, two in pair.reshaped.items() if is_table(name, *two)]
    if not tables or len(tables) != len(pair.reshaped) or pair.changed:
        return None
    sentence = f"The same weights but for the size of a table of positions: {_shapes(pair)}."
    return _Found(
        Relation.RESIZED, sentence, "another table when it is interpolated", "whether the table was interpolated"
    )


def is_table(name: str, one: Tensor, other: Tensor) -> bool:
    """Whether a tensor of two sizes is a table of positions, by its name and by how its shapes differ."""
    sizes = [(a, b) for a, b in zip(one.shape, other.shape, strict=False) if a != b]
    return "pos" in name.lower() and len(one.shape) == len(other.shape) and 1 <= len(sizes) <= 2


def _permuted(seen: _Seen) -> _Found | None:
    pair = seen.pair
    changed = [each for each in pair.changed if each.values > 1]
    if pair.reshaped or len(changed) < _FEWEST_PERMUTED or not any(each.one.is_matrix for each in changed):
        return None
    if sum(_same_norm(each) for each in changed) < _SHARE_PERMUTED * len(changed):
        return None
    sentence = (
        "The same weights with units in another order, or otherwise turned: each tensor that differs has the norm "
        "that it has in the other, to six digits."
    )
    return _Found(Relation.PERMUTED, sentence, "other norms of rows and columns", "whether it is an order of units")


def _same_norm(each: Compared) -> bool:
    one, other = each.one.sketch, each.other.sketch
    if one is None or other is None or (each.one.is_matrix and each.relative <= _FAR):
        return False
    return one.zeros == other.zeros and abs(one.norm - other.norm) <= _NORM_IS_SAME * max(one.norm, other.norm)


def _same_start(seen: _Seen) -> _Found | None:
    pair, everything, parts = seen.pair, seen.everything, seen.parts
    if everything.sureness < SURE and not any(_is_sure(part, pair) for part in parts):
        return None
    said = [f"apart by {_size(everything)}"]
    said += [f"untouched: {names}" for names in _named(parts, State.SAME)]
    said += [f"begun anew, or from elsewhere: {names}" for names in _named(parts, State.ANEW)]
    sentence = f"{_recorded(pair)}; {'; '.join(said)}."
    open_to = ""
    matrices = [each for each in pair.changed if each.one.is_matrix]
    if matrices and len(matrices) == len(pair.changed) < len(pair.both) / 2 and not pair.reshaped:
        names = _listed([each.one.name for each in matrices])
        sentence = f"{sentence[:-1]}; only {len(matrices)} matrices changed: {names}."
        open_to = "whether the change is of a low rank, as of a merged LoRA"
    return _Found(Relation.SAME_START, sentence, "a likeness of matrices that is not more than chance", open_to)


def _named(parts: Sequence[Part], state: State) -> list[str]:
    """The components of a state in a list of one text, or none."""
    roles = [role_words(part.role) for part in parts if part.state is state and part.role is not None]
    return [printable(", ".join(roles), 300)] if roles else []


def _is_sure(part: Part, pair: Pair) -> bool:
    members = [each for name, each in pair.both.items() if _role(pair, name) == part.role]
    return together(members).sureness >= SURE


def _recorded(pair: Pair) -> str:
    """Which of the two started from which, as far as a manifest says it."""
    for child, parent in ((pair.one, pair.other), (pair.other, pair.one)):
        if parent.weights in child.parents:
            return f"{child.name} was trained from {parent.name}, as its manifest records"
    return "One was trained from the other, or both from the same start"


def _unrelated(seen: _Seen) -> _Found | None:
    everything = seen.everything
    if everything.likeness is None:
        sentence = "They have no matrix in common by which it could be told."
        return _Found(Relation.INCOMPARABLE, sentence, "", "")
    sentence = (
        f"Unrelated, or permuted and trained since: matrices are alike by {everything.likeness:+.3f}, "
        f"{everything.sureness:+.1f} standard errors from nothing."
    )
    return _Found(Relation.UNRELATED, sentence, "a way to order units by which they are alike", "")


_ASKED = (_incomparable, _identical, _rounded, _pruned, _resized, _permuted, _same_start, _unrelated)


def _size(all_of_it: Together) -> str:
    sure = f" ± {all_of_it.error:.0%}" if all_of_it.error >= 0.005 else ""
    return f"{all_of_it.distance:.1e}{sure} (relative L2)"


def _role(pair: Pair, name: str) -> str | None:
    return pair.one.roles.get(name, pair.other.roles.get(name))


def _parts(pair: Pair) -> tuple[Part, ...]:
    members: dict[str | None, list[Compared]] = {}
    for name, each in pair.both.items():
        members.setdefault(_role(pair, name), []).append(each)
    return tuple(_part(role, some) for role, some in members.items())


def _part(role: str | None, members: Sequence[Compared]) -> Part:
    changed = [each for each in members if not each.same]
    all_of_it = together(members)
    state = State.MOVED
    if not changed:
        state = State.SAME
    elif all_of_it.likeness is not None and all_of_it.sureness < _SURE_OF_A_PART:
        # With few matrices, a likeness that is not sure may still be one.
        unlike = all_of_it.sureness < 3 and all_of_it.likeness < 0.3
        state = State.ANEW if unlike else State.MOVED
    return Part(role, state, len(members), len(changed), all_of_it.distance, all_of_it.error, all_of_it.likeness)


def _notes(pair: Pair) -> Iterable[str]:
    for name, names in ((pair.one.name, pair.only_one), (pair.other.name, pair.only_other)):
        if names:
            yield f"Only {name} has {_listed(names)}."
    if pair.reshaped:
        yield f"Of other shapes: {_shapes(pair)}."
    if without := [name for name, each in pair.both.items() if each.squares is None]:
        yield f"Not compared, for want of a sketch: {_listed(without)}."


def _shapes(pair: Pair) -> str:
    """Tensors of two shapes, each with the second's and the first's."""
    shown = [f"{name} {list(now.shape)} from {list(was.shape)}" for name, (now, was) in pair.reshaped.items()]
    more = f" and {len(shown) - _MOST_SHOWN} more" if len(shown) > _MOST_SHOWN else ""
    return printable("; ".join(shown[:_MOST_SHOWN]), 300) + more


def _listed(names: Sequence[str]) -> str:
    return printable(listed(names), 300)

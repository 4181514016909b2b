"""Whether one set of weights is a mix of others: an average, a merge, task arithmetic, a task vector.

Sketches are linear, so the coefficients of a mix of weights are those of the same mix of sketches, and are found by
least squares. First they are made to sum to one, as in every average and in task arithmetic: then what all have in
common drops out. Only what rounding explains counts as a mix: weights that lie near a mix need not have been made by
one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from manifest.escaping import printable
from manifest.kinship.answers import MixAnswer, Relation
from manifest.kinship.distances import ROUNDING
from manifest.kinship.roundings import limits
from manifest.kinship.sketch import Numbers
from manifest.kinship.subjects import Subject
from manifest.schema.name_ranges import listed
from manifest.schema.vocabulary import role_words

_SAME_COEFFICIENT = 2e-3
_NOTHING = 1e-3
"""A coefficient below which a source takes no part."""
_LEAST_SHARE, _LEAST_MATRICES = 0.5, 0.95
"""Of the tensors that differ, and of the matrices among them, those that must be the mix for it to be one. torch's
`AveragedModel` leaves the statistics of normalisation as they were at first."""
_ROOM = 3.0
"""Times what rounding moves a tensor by on average."""


@dataclass(frozen=True)
class _Fit:
    """Coefficients of the sources of one set of tensors.

    Attributes:
        coefficients: One each source.
        errors: Their standard errors.
        residual: As a share of the distance from the nearest source.
        explained: Names of the tensors that rounding takes the rest of.
        besides: Names of the others.
        matrices: The share of explained ones among matrices, or among all where there are none.
    """

    coefficients: Numbers
    errors: Numbers
    residual: float
    explained: list[str]
    besides: list[str]
    matrices: float

    @property
    def holds(self) -> bool:
        share = len(self.explained) / (len(self.explained) + len(self.besides))
        return share >= _LEAST_SHARE and self.matrices >= _LEAST_MATRICES


def mix_of(subjects: Sequence[Subject]) -> MixAnswer | None:
    """How one of some sets of weights is a mix of the others; None where none is.

    A mix with coefficients between zero and one is taken before any other, and the first that is named before later
    ones: of three on a line, each is a mix of the two others.
    """
    if len(subjects) < 3:
        return None
    found = []
    for index, made in enumerate(subjects):
        sources = [*subjects[:index], *subjects[index + 1 :]]
        if (answer := _mix(made, sources)) is not None:
            found.append(answer)
    if not found:
        return None
    best = next(filter(_is_between, found), found[0])
    if best is found[0] or found[0].made != subjects[0].name:
        return best
    also = f"{best.sentence} So, the numbers not telling which was made of the others: {found[0].sentence}"
    return replace(best, sentence=also)


def _is_between(answer: MixAnswer) -> bool:
    values = [*answer.coefficients.values(), *chain(*(each.values() for each in answer.by_component.values()))]
    return answer.relation is Relation.MIXED and all(-_NOTHING <= value <= 1 + _NOTHING for value in values)


def _mix(made: Subject, sources: Sequence[Subject]) -> MixAnswer | None:
    names = _comparable([made, *sources])
    if not names:
        return None
    whole = _fitted(made, sources, names, affine=True)
    relation = Relation.MIXED
    if whole is None or not whole.holds:
        by_role = _by_component(made, sources, names)
        if by_role:
            return _by_component_answer(made, sources, by_role)
        whole, relation = _fitted(made, sources, names, affine=False), Relation.COMBINED
    if whole is None or not whole.holds or max(abs(whole.coefficients)) > 1 / _NOTHING:
        return None
    if sum(abs(whole.coefficients) > _NOTHING) < 2:
        return None  # a copy of one of them, or a multiple
    return MixAnswer(
        made=made.name,
        relation=relation,
        sentence=_sentence(made, sources, whole, relation),
        coefficients=_named(sources, whole.coefficients),
        errors=_named(sources, whole.errors),
        residual=whole.residual,
        besides=tuple(whole.besides),
        refuted_by="a tensor that is not this mix, beyond what rounding explains",
    )


def _comparable(subjects: Sequence[Subject]) -> list[str]:
    """Names of tensors that all have in one shape, with sketches, and that are not the same in all."""
    first, *others = subjects
    return [
        name
        for name, tensor in first.tensors.items()
        if tensor.sketch is not None
        and all(
            name in other.tensors
            and other.tensors[name].shape == tensor.shape
            and other.tensors[name].sketch is not None
            for other in others
        )
        and len({each.tensors[name].digest for each in subjects}) > 1
    ]


def _fitted(made: Subject, sources: Sequence[Subject], names: Sequence[str], *, affine: bool) -> _Fit | None:
    """Coefficients by least squares over matrices, where there are some; None where they are not determined."""
    matrices = [name for name in names if made.tensors[name].is_matrix] or list(names)
    target = _stacked(made, matrices)
    columns = np.stack([_stacked(each, matrices) for each in sources], axis=1)
    origin = columns[:, 0] if affine else np.zeros_like(target)
    moved = (columns[:, 1:] if affine else columns) - origin[:, None]
    nearest = float(np.linalg.norm(columns - target[:, None], axis=0).min())
    free, _, rank, values = np.linalg.lstsq(moved, target - origin, rcond=None)
    if nearest == 0 or rank < moved.shape[1] or values[-1] <= ROUNDING * np.linalg.norm(columns):
        return None
    coefficients: Numbers = np.concatenate([[1 - free.sum()], free]) if affine else np.asarray(free)
    rest = target - columns @ coefficients
    spread = math.sqrt(float(rest @ rest) / max(len(target) - len(free), 1))
    own = spread * np.sqrt(np.diag(np.linalg.inv(moved.T @ moved)))
    errors: Numbers = np.concatenate([[np.linalg.norm(own)], own]) if affine else own
    explained: list[str] = []
    besides: list[str] = []
    for name in names:
        (explained if _is_explained(made, sources, name, coefficients) else besides).append(name)
    share = len(set(matrices).intersection(explained)) / len(matrices)
    return _Fit(coefficients, errors, float(np.linalg.norm(rest)) / nearest, explained, besides, share)


def _stacked(subject: Subject, names: Sequence[str]) -> Numbers:
    return np.concatenate([_numbers(subject, name) for name in names])


def _numbers(subject: Subject, name: str) -> Numbers:
    sketch = subject.tensors[name].sketch
    assert sketch is not None
    return sketch.numbers


def _is_explained(made: Subject, sources: Sequence[Subject], name: str, coefficients: Numbers) -> bool:
    """Whether a tensor is the mix, but for the rounding of its values and of the sources'."""
    rest = _numbers(made, name) - sum(
        value * _numbers(each, name) for value, each in zip(coefficients, sources, strict=True)
    )
    allowed = 0.0
    for weight, subject in ((1.0, made), *zip(coefficients, sources, strict=True)):
        tensor = subject.tensors[name]
        assert tensor.sketch is not None
        allowed += (weight * ROUNDING * tensor.sketch.norm) ** 2
        if subject is made and tensor.dtype in ("float16", "bfloat16"):
            allowed += limits(tensor.dtype, math.prod(tensor.shape), tensor.sketch.norm)[1]
    return float(rest @ rest) <= _ROOM * allowed


def _by_component(made: Subject, sources: Sequence[Subject], names: Sequence[str]) -> dict[str, _Fit]:
    """Coefficients by component, where each component is a mix; none where one is not."""
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(made.roles.get(name, ""), []).append(name)
    if len(members) < 2:
        return {}
    found = {}
    for role, some in members.items():
        fit = _single_source(made, sources, some) or _fitted(made, sources, some, affine=True)
        if fit is None or not fit.holds:
            return {}
        found[role] = fit
    return found


def _single_source(made: Subject, sources: Sequence[Subject], names: Sequence[str]) -> _Fit | None:
    """A component that is one of the sources'."""
    for index in range(len(sources)):
        coefficients = np.eye(len(sources))[index]
        if all(_is_explained(made, sources, name, coefficients) for name in names):
            return _Fit(coefficients, np.zeros(len(sources)), 0.0, list(names), [], 1.0)
    return None


def _by_component_answer(made: Subject, sources: Sequence[Subject], fits: Mapping[str, _Fit]) -> MixAnswer:
    shown = "; ".join(
        f"{printable(role_words(role)) or 'others'}: {_formula(sources, fit.coefficients)}"
        for role, fit in fits.items()
    )
    return MixAnswer(
        made=made.name,
        relation=Relation.MIXED,
        sentence=f"{made.name} is a mix of the others, component by component: {shown}.",
        coefficients={},
        errors={},
        residual=max(fit.residual for fit in fits.values()),
        by_component={role: _named(sources, fit.coefficients) for role, fit in fits.items()},
        besides=tuple(name for fit in fits.values() for name in fit.besides),
        refuted_by="a tensor that is not the mix of its component, beyond what rounding explains",
    )


def _named(sources: Sequence[Subject], values: Numbers) -> dict[str, float]:
    return {each.name: float(value) for each, value in zip(sources, values, strict=True)}


def _sentence(made: Subject, sources: Sequence[Subject], fit: _Fit, relation: Relation) -> str:
    taking = [abs(value) > _NOTHING for value in fit.coefficients]
    used = [each for each, takes in zip(sources, taking, strict=True) if takes]
    values = fit.coefficients[taking]
    if relation is Relation.COMBINED:
        words = f"a sum of the others whose coefficients sum to {values.sum():.4g}"
    elif np.ptp(values) < _SAME_COEFFICIENT:
        words = f"the average of {len(used)}"
    elif (values > 0).all():
        words = "a weighted average"
    else:
        words = "what task arithmetic makes"
    sentence = f"{made.name} is {words}: {_formula(used, values)}"
    if relation is Relation.MIXED and (len(used) == 2 or np.ptp(values) >= _SAME_COEFFICIENT):
        sentence += _from_a_start(used, values)
    if fit.besides:
        sentence += f"; but not {printable(listed(fit.besides), 300)}"
    return f"{sentence}."


def _formula(sources: Sequence[Subject], values: Numbers) -> str:
    terms = [(each.name, value) for each, value in zip(sources, values, strict=True) if abs(value) > _NOTHING]
    if len(terms) == 1 and abs(terms[0][1] - 1) < _NOTHING:
        return terms[0][0]
    return " + ".join(f"{value:.4g}·{name}" for name, value in terms).replace("+ -", "- ")


def _from_a_start(used: Sequence[Subject], values: Numbers) -> str:
    """The same mix as moves away from one of the sources; nothing where it is between two."""
    if len(used) == 2 and (values > 0).all():
        return ""
    if len(used) == 2:
        start = int(values.argmax())
    elif (values < 0).sum() == 1:
        start = int(values.argmin())
    else:
        stacks = np.stack([_stacked(each, _comparable(used)) for each in used])
        start = int(np.square(stacks[:, None] - stacks[None]).sum(axis=(1, 2)).argmin())  # the one in the middle
    moves = [
        f"{value:.4g}·({each.name} - {used[start].name})"
        for place, (each, value) in enumerate(zip(used, values, strict=True))
        if place != start
    ]
    return f"; the same as {' + '.join([used[start].name, *moves])}".replace("+ -", "- ")

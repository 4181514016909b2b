"""Whether each component of a model was ever trained, told from its numbers alone.

Two kinds of evidence: what is exact (norms at 1 and 0, biases at 0, uniform draws on the lattice of torch's generator),
which one optimizer step undoes, and distributions, which a matrix keeps for many steps. A component is called
initialised only where both agree. The numbers that initialisers begin with are those of open_clip, timm, torchvision
and transformers (see `initialisers`).

The null hypothesis is that a component is fresh. A fresh matrix is rejected with probability 1e-6 where its
initialiser is known, a fresh norm never; a component is still called initialised while half of its matrices fit. A
trained matrix passes more often than not at first: 50 of 50 of a text tower after three steps at 1e-5, and 15 of 30
of a small CLIP that was trained to the end, so that a matrix alone proves nothing. A trained component is called
initialised only where all that is exact in it outlived the training: norms at 1 and 0, and biases. Of some 450 models
after three and ten steps, in three types, none was (`tests/initialisation` counts). What nothing can tell apart is a
model whose steps were so small that its type rounded every one of them away.

Between the two lies what has barely moved: norms a few thousandths from where they began at most, and matrices that
still have their initialiser's distribution. `docs/training.md` has the rates at which that is told.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from manifest.checkpoint import Checkpoint
from manifest.initialisation.anomalies import Anomaly, anomalies_of
from manifest.initialisation.distributions import SIGNIFICANCE
from manifest.initialisation.examination import BiasState, Examination, MatrixState, NormState
from manifest.initialisation.untrained import TOWERS, UNTRAINED
from manifest.schema.name_ranges import listed
from manifest.schema.vocabulary import Training

__all__ = ["Evidence", "Anomaly", "evidence", "anomalies_of"]

NEAR = 1.5e-3
"""How far norms are from where they began, at most, where weights barely moved; `tests/initialisation` measures it."""
_NEAR_SCALES = 10 * NEAR
"""The same for layer scales, which move further: their branches are all but closed at first."""
_FEWEST_NORMS = 2
_FEWEST_MATRICES = 2
_FEW = 0.1
"""Share of biases or matrices that may be an exception: of an initialiser that is not known here."""
_FRESH = {MatrixState.EXACT, MatrixState.KNOWN}
_SHORT = {"float16"}
"""Types in which the first steps of training may round to nothing."""
_INITIAL_SCALES = (math.log(1 / 0.07), 2.6592, math.log(10), 0.0)
_INITIAL_BIASES = (-10.0, 0.0)
_CEILING = math.log(100)
"""CLIP holds its scale at 100, and no fresh one is there."""


@dataclass(frozen=True)
class Evidence:
    """Why a component is called trained or not.

    Attributes:
        training: The verdict.
        reasons: Short clauses for a person: `26 of 26 norms are exactly as initialised`.
        norms: How many norms it has.
        pristine_norms: How many of them have the exact values of their initialisation.
        matrices: How many weights it has that are large enough for a test and not all one value.
        fresh_matrices: How many of them have the distribution of a known initialiser.
    """

    training: Training
    reasons: tuple[str, ...]
    norms: int
    pristine_norms: int
    matrices: int
    fresh_matrices: int


def evidence(roles: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, Evidence]:
    """The verdict on each component, with its reasons.

    Args:
        roles: The role of each tensor by name; those that the checkpoint does not hold are passed over.
        checkpoint: The weights, of which norms are read whole and matrices in samples.
    """
    members: dict[str, list[str]] = {}
    for name, role in roles.items():
        members.setdefault(role, [])
        if name in checkpoint.tensors:
            members[role].append(name)
    examined = {role: Examination(names, checkpoint) for role, names in members.items()}
    found = {role: _of_component(parts) for role, parts in examined.items()}
    found = {role: _with_its_tower(role, verdict, found) for role, verdict in found.items()}
    return {role: _with_the_model(role, examined[role], verdict, found) for role, verdict in found.items()}


@dataclass(frozen=True)
class _Counts:
    norms: Sequence[NormState]
    telling: int
    moved_scales: int
    matrices: Sequence[MatrixState]
    biases: Sequence[BiasState]

    def norms_that(self, state: NormState) -> int:
        return sum(norm is state for norm in self.norms)

    @property
    def fresh(self) -> int:
        return sum(matrix in _FRESH for matrix in self.matrices)

    @property
    def moved_biases(self) -> int:
        return sum(bias is BiasState.MOVED for bias in self.biases)

    @property
    def exact_biases(self) -> int:
        return sum(bias is BiasState.EXACT for bias in self.biases)

    @property
    def exact(self) -> int:
        return self.exact_biases + self.matrices.count(MatrixState.EXACT)


def _of_component(parts: Examination) -> Evidence:
    matrices = [parts.matrix(name) for name in parts.matrices]
    counts = _Counts(
        norms=[parts.norm(stem) for stem in parts.norms],
        telling=sum(parts.tells(stem) for stem in parts.norms),
        moved_scales=sum(parts.layer_scale_moved(name) for name in parts.layer_scales),
        matrices=[state for state in matrices if state is not MatrixState.CONSTANT],
        biases=[parts.bias(name) for name in parts.biases],
    )
    training, reason = _verdict(counts, parts)
    return Evidence(
        training=training,
        reasons=(*_counted(counts), *([reason] if reason else ()), *_fresh_layers(parts, training)),
        norms=len(counts.norms),
        pristine_norms=counts.norms_that(NormState.PRISTINE),
        matrices=len(counts.matrices),
        fresh_matrices=counts.fresh,
    )


def _verdict(counts: _Counts, parts: Examination) -> tuple[Training, str | None]:
    """The verdict on a component by itself, and what decided beyond the counts."""
    if counts.norms_that(NormState.MOVED) or counts.moved_scales:
        return _by_moved_norms(counts, parts)
    if counts.telling >= _FEWEST_NORMS:
        return _by_untouched_norms(counts, parts)
    return _by_matrices(counts, parts)


def _by_moved_norms(counts: _Counts, parts: Examination) -> tuple[Training, str | None]:
    """Trained, unless norms are as near to where they began as matrices are: those have their distribution still."""
    if counts.telling < _FEWEST_NORMS or not counts.matrices or 2 * counts.fresh < len(counts.matrices):
        return Training.TRAINED, None
    departure = parts.departure()
    scales = max((parts.layer_scale_departure(name) for name in parts.layer_scales), default=0.0)
    if not (math.isfinite(departure) and math.isfinite(scales)):
        return Training.UNKNOWN, "some of its norms are not finite"
    if departure > NEAR or scales > _NEAR_SCALES:
        return Training.TRAINED, None
    if not departure:
        return Training.BARELY, "the norms are as near to their initial values as their type can tell"
    return Training.BARELY, (
        f"the norms are {departure:.1e} from their initial values, as far as Adam gets in {_steps(departure)}"
    )


def _steps(departure: float) -> str:
    """Numbers of steps at usual rates that move values so far, since a step of Adam moves each by about its rate."""
    digit, _, power = f"{departure:.0e}".partition("e")
    one, exponent = max(1, int(digit)), int(power)
    steps = "1 step" if one == 1 else f"{one} steps"
    return f"{steps} at a rate of 1e{exponent:03d}, or {10 * one} at 1e{exponent - 1:03d}"


def _by_untouched_norms(counts: _Counts, parts: Examination) -> tuple[Training, str | None]:
    ran = counts.norms_that(NormState.RAN)
    if ran and parts.dtypes() & _SHORT:
        return Training.UNKNOWN, "statistics of norms saw batches, and so short a type may have lost the first steps"
    if counts.moved_biases > _FEW * len(counts.biases):
        return Training.UNKNOWN, f"{counts.moved_biases} of {len(counts.biases)} biases have moved"
    if 2 * counts.fresh < len(counts.matrices) and not _of_a_scale_of_its_own(counts, parts):
        return Training.UNKNOWN, "most matrices are no initialiser's: they may have been trained with their norms held"
    return Training.INITIALISED, "batches went through it, and no step was taken" if ran else None


def _of_a_scale_of_its_own(counts: _Counts, parts: Examination) -> bool:
    """Whether matrices that no known initialiser gives may still be fresh: all but a few draws, biases untouched."""
    if 2 * counts.exact_biases < len(counts.biases) or not counts.biases:
        return False
    return _unlike(parts) <= _FEW * len(counts.matrices)


def _unlike(parts: Examination) -> int:
    """How many matrices are no draw of an initialiser's shape, whatever its scale."""
    others = [name for name in parts.matrices if parts.matrix(name) is MatrixState.OTHER]
    return sum(not parts.alike(name) for name in others)


def _by_matrices(counts: _Counts, parts: Examination) -> tuple[Training, str | None]:
    """The verdict where norms are too few to tell: several matrices that fit, and something exact."""
    total = len(counts.matrices)
    if not total:
        return Training.UNKNOWN, None if counts.norms else "it has neither norms nor matrices that would tell"
    if len(counts.norms) >= _FEWEST_NORMS and counts.fresh == total:
        return Training.UNKNOWN, "norms without biases in so short a type stay at 1 while a model is trained"
    if counts.fresh < total:
        if 2 * _unlike(parts) > total:
            return Training.TRAINED, "no initialiser gives such values"
        return Training.UNKNOWN, "its values may be those of an initialiser that is not known here"
    if total < _FEWEST_MATRICES:
        return Training.UNKNOWN, "it looks like its initialiser's; a single matrix is no proof"
    if counts.moved_biases:
        return Training.UNKNOWN, f"{counts.moved_biases} of {len(counts.biases)} biases have moved"
    if 2 * counts.exact < total:
        return Training.UNKNOWN, "a few steps of training would look the same, and nothing exact rules them out"
    return Training.INITIALISED, "biases and draws are exactly as initialised"


def _counted(counts: _Counts) -> list[str]:
    clauses = []
    if counts.norms:
        untouched = counts.norms_that(NormState.PRISTINE)
        clauses.append(f"{untouched} of {len(counts.norms)} norms are exactly as initialised")
    if counts.moved_scales:
        clauses.append(f"{counts.moved_scales} layer scales have moved")
    if counts.matrices:
        clauses.append(
            f"{counts.fresh} of {len(counts.matrices)} matrices have their initialiser's distribution "
            f"(p > {SIGNIFICANCE:.0e} each)".replace("e-06", "e-6")
        )
    return clauses


def _fresh_layers(parts: Examination, training: Training) -> list[str]:
    blocks = parts.fresh_blocks() if training is Training.TRAINED else []
    return [f"{listed(blocks)} are as initialised, and others like them are not"] if blocks else []


def _with_its_tower(role: str, own: Evidence, found: Mapping[str, Evidence]) -> Evidence:
    towers = {found[tower].training for tower in TOWERS.get(role, ()) if tower in found}
    if own.training is not Training.UNKNOWN:
        return own
    if Training.INITIALISED in towers:
        return replace(own, training=Training.INITIALISED, reasons=(*own.reasons, "its tower was never trained"))
    if Training.BARELY in towers:
        return replace(own, training=Training.BARELY, reasons=(*own.reasons, "its tower was barely trained"))
    return own


def _with_the_model(role: str, parts: Examination, own: Evidence, found: Mapping[str, Evidence]) -> Evidence:
    """A lone scale or bias: trained when it moved, and as the rest of the model is when it did not."""
    if len(parts.scalars) != 1 or own.norms or own.matrices or own.training is not Training.UNKNOWN:
        return own
    value = parts.value(parts.scalars[0])
    if value is None:
        return own
    initial = _INITIAL_BIASES if role.endswith("bias") else _INITIAL_SCALES
    short = bool(parts.dtypes() & {"float16", "bfloat16"})
    others = {verdict.training for verdict in found.values() if verdict is not own} - {Training.UNKNOWN}
    if Training.BARELY in others <= UNTRAINED.keys() and any(abs(value - one) <= NEAR for one in initial):
        reason = f"{value:.6g} is near an initial value, and nothing else in the model was trained for longer"
        return replace(own, training=Training.BARELY, reasons=(reason,))
    if any(_same(value, one, short) for one in initial):
        if others == {Training.INITIALISED}:
            reasons = f"{value:.4g} is an initial value", "nothing else in the model was trained"
            return replace(own, training=Training.INITIALISED, reasons=reasons)
        return replace(own, reasons=(f"{value:.4g} is an initial value; a single number is no proof",))
    if not role.endswith("bias") and _same(value, _CEILING, short):
        return replace(own, training=Training.TRAINED, reasons=("it is at the ceiling of 100 that training holds",))
    if short or _is_chosen(value):
        return replace(own, reasons=(f"{value:.4g} may be an initial value that someone chose",))
    return replace(own, training=Training.TRAINED, reasons=(f"{value:.6g} is no initial value",))


def _same(value: float, other: float, short: bool) -> bool:
    return math.isclose(value, other, rel_tol=5e-3 if short else 1e-6, abs_tol=1e-7)


def _is_chosen(value: float) -> bool:
    """Whether a person may have written a number, or what it is the logarithm of: three digits say it."""
    written = [value, *(math.exp(sign * value) for sign in (1, -1) if abs(value) < 100)]
    return any(math.isclose(number, float(f"{number:.3g}"), rel_tol=1e-6, abs_tol=1e-9) for number in written)

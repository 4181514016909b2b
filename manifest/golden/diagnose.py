"""Why two answers differ: hypotheses, each run over the same weights, and how much of the difference is left by it.

A hypothesis fits when what it leaves is no more than arithmetic explains. Low precision never fits so well, since a
last bit here rounds otherwise there, and more so layer by layer; it is taken for the cause when it leaves less than two
thirds, and no other hypothesis leaves less: another cause of the same size would leave 1.4 times the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch

from manifest.errors import one_line
from manifest.families.protocol import Variant
from manifest.golden.floor import Built
from manifest.golden.run import ProbeOutputs, recorded
from manifest.golden.sketch import distance
from manifest.probes.inputs import Inputs
from manifest.schema.document import Architecture, Output, Reading

_MOST_LEFT = 2 / 3
_DRAWS = 3
_AS_FAR = 2.0
_UNRELATED = 0.5
"""Cosine of two outputs below which they have nothing to do with one another, where they are far apart."""
_FAR = 0.5


class Target(Protocol):
    """The answers that are to be explained."""

    @property
    def tolerance(self) -> float:
        """The greatest distance that counts as none."""

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        """How far each output is from these, by name."""


@dataclass(frozen=True)
class OutputsTarget:
    """Outputs on record.

    Attributes:
        outputs: By name.
        tolerance: The greatest relative L2 distance that arithmetic explains.
    """

    outputs: Mapping[str, Output]
    tolerance: float

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        return {name: _relative(output, answers, name) for name, output in self.outputs.items()}


@dataclass(frozen=True)
class ReadingsTarget:
    """Probabilities that somebody read off, as in a paper or on a model card.

    Attributes:
        readings: By image and prompt.
        tolerance: Half a unit of the last digit that they were written with.
    """

    readings: Sequence[Reading]
    tolerance: float

    def distances(self, answers: ProbeOutputs) -> dict[str, float]:
        found = {reading.image: reading.prompts for reading in answers.readings}
        return {
            reading.image: max(
                (
                    abs(value - found.get(reading.image, {}).get(prompt, math.inf))
                    for prompt, value in reading.prompts.items()
                ),
                default=0.0,
            )
            for reading in self.readings
        }


@dataclass(frozen=True)
class Tried:
    """One hypothesis that was run.

    Attributes:
        variant: The hypothesis.
        residual: The greatest distance that it leaves.
        fits: Whether it explains the difference.
    """

    variant: Variant
    residual: float
    fits: bool


@dataclass(frozen=True)
class Diagnosis:
    """What was tried, and what it came to.

    Attributes:
        distance: How far the model itself is from the answers that are to be explained.
        tolerance: The greatest distance that counts as none.
        tried: The hypotheses, those that leave least first.
        skipped: Hypotheses that could not be run, with the reason.
        unrelated: Outputs that have nothing to do with those to be explained, as those of another or a fresh tower.
    """

    distance: float
    tolerance: float
    tried: Sequence[Tried] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    unrelated: Sequence[str] = ()

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to explain."""
        return self.distance <= self.tolerance

    @property
    def cause(self) -> Tried | None:
        """The hypothesis that explains the difference, if one does."""
        return self.tried[0] if self.tried and self.tried[0].fits else None


def diagnose(
    built: Built,
    inputs: Inputs,
    target: Target,
    variants: Iterable[Variant],
    build: Callable[[Variant], Built],
    again: Callable[[Architecture], Inputs],
) -> Diagnosis:
    """Try hypotheses until one explains why a model's answers are not those of a target.

    Args:
        built: The model itself.
        inputs: What it is asked; a small probe, since each hypothesis asks once.
        target: The answers to explain.
        variants: The hypotheses, the likeliest first.
        build: A model of its own for a hypothesis, over its architecture and weights.
        again: The same question, prepared as another architecture says.
    """
    plain = built.ask(inputs)
    by_output = target.distances(plain)
    furthest = _furthest(by_output)
    if furthest <= target.tolerance:
        return Diagnosis(furthest, target.tolerance)
    differing = _differing(built, by_output, target.tolerance)
    tried: list[Tried] = []
    skipped: dict[str, str] = {}
    seen: set[str] = set()
    for variant in variants:
        words = f"{variant.name}: {variant.there}"
        if words in seen:
            continue
        seen.add(words)
        if differing is not None and not _may_explain(variant, differing):
            continue
        try:
            tried.append(_try(built, plain, inputs, target, furthest, variant, build, again))
        except Exception as error:  # a wrong way to run a model may fail in any way
            skipped[words] = f"{type(error).__name__}: {one_line(error)}"
            continue
        if tried[-1].fits:
            break
    tried.sort(key=lambda each: (not each.fits, each.residual))
    if tried and not tried[0].fits and tried[0].variant.approximate and tried[0].residual <= _MOST_LEFT * furthest:
        tried[0] = replace(tried[0], fits=True)
    return Diagnosis(furthest, target.tolerance, tried, skipped, _unrelated(plain, target, by_output))


def _try(
    built: Built,
    plain: ProbeOutputs,
    inputs: Inputs,
    target: Target,
    furthest: float,
    variant: Variant,
    build: Callable[[Variant], Built],
    again: Callable[[Architecture], Inputs],
) -> Tried:
    answers = _answers(built, plain, inputs, variant, build, again)
    residual = _furthest(target.distances(answers))
    if residual > target.tolerance and variant.native_mode:
        # Random from draw to draw: it fits when the answers are about as far off as its own are.
        draws = [answers, *(_answers(built, plain, inputs, variant, build, again) for _ in range(_DRAWS))]
        if _furthest(target_of(draws[0], target).distances(draws[1])) > target.tolerance:
            own = [_furthest(target_of(plain, target).distances(draw)) for draw in draws]
            typical = sum(own) / len(own)
            return Tried(variant, residual, typical / _AS_FAR <= furthest <= typical * _AS_FAR)
    return Tried(variant, residual, residual <= target.tolerance)


def target_of(answers: ProbeOutputs, like: Target) -> Target:
    """What a model said as a target of the same kind and tolerance as another."""
    if isinstance(like, ReadingsTarget):
        return ReadingsTarget(answers.readings, like.tolerance)
    return OutputsTarget(answers.record(), like.tolerance)


def _furthest(distances: Mapping[str, float]) -> float:
    return max((far if not math.isnan(far) else math.inf for far in distances.values()), default=0.0)


def _answers(
    built: Built,
    plain: ProbeOutputs,
    inputs: Inputs,
    variant: Variant,
    build: Callable[[Variant], Built],
    again: Callable[[Architecture], Inputs],
) -> ProbeOutputs:
    """What the model says when it is run as a hypothesis has it."""
    if variant.conclude is not None:
        with torch.no_grad():
            outputs = variant.conclude(built.module, dict(plain.outputs))
        readings = built.family.readings(built.architecture, built.module, inputs, outputs)
        return ProbeOutputs(inputs, outputs, readings, plain.threads)
    model = build(variant)
    if variant.alter is not None:
        variant.alter(model.module)
    if variant.architecture is not None:
        inputs = again(variant.architecture)
    if variant.prepare is not None:
        inputs = variant.prepare(inputs)
    return model.ask(inputs, native_mode=variant.native_mode)


def _differing(built: Built, by_output: Mapping[str, float], tolerance: float) -> set[str] | None:
    """Kinds of inputs of which an output differs; None where outputs are not told by kind."""
    kinds = {built.family.rows[name]: False for name in by_output if name in built.family.rows}
    for name, far in by_output.items():
        if name in built.family.rows and far > tolerance:
            kinds[built.family.rows[name]] = True
    return {kind for kind, differs in kinds.items() if differs} if kinds else None


def _may_explain(variant: Variant, differing: set[str]) -> bool:
    """Whether a hypothesis is of what differs: one kind of inputs, all of them, or only what is concluded of them."""
    if not differing:
        return variant.conclude is not None
    return variant.concerns is None or differing == {variant.concerns}


def _relative(output: Output, answers: ProbeOutputs, name: str) -> float:
    tensor = answers.outputs.get(name)
    if tensor is None or list(tensor.shape) != output.shape:
        return math.inf
    found = recorded(answers.inputs.probe, name, tensor)
    if found.digest == output.digest:
        return 0.0
    absolute = distance(output.sketch, found.sketch)
    relative = absolute / output.norm if output.norm else absolute
    return relative if math.isfinite(relative) else math.inf


def _unrelated(plain: ProbeOutputs, target: Target, by_output: Mapping[str, float]) -> list[str]:
    if not isinstance(target, OutputsTarget):
        return []
    found = plain.record()
    return [
        name
        for name, output in target.outputs.items()
        if by_output[name] > _FAR and name in found and _cosine(output.sketch, found[name].sketch) < _UNRELATED
    ]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Estimated from sketches, within about 0.12."""
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return 1.0
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), np.finfo(np.float64).tiny))

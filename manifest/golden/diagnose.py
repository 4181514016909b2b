"""Why two answers differ: hypotheses, each run over the same weights, and how much of the difference is left by it.

A hypothesis fits when what it leaves is no more than arithmetic explains. Low precision never fits so well, since a
last bit here rounds otherwise there, and more so layer by layer: of errors of weights and of activations, in equal
parts, only the first are computed alike, and 0.71 of the distance is left. It is taken for the cause when it leaves at
most 0.8, and no other hypothesis leaves less: another cause of the same size would leave 1.4 times the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from manifest.errors import one_line
from manifest.families.protocol import Variant
from manifest.golden.floor import Built
from manifest.golden.hypotheses.pairs import together
from manifest.golden.run import ProbeOutputs
from manifest.golden.targets import OutputsTarget, Target, target_of
from manifest.probes.inputs import Inputs, Preprocessing
from manifest.schema.document import Architecture

Question = Callable[[Architecture, Preprocessing | None], Inputs]
"""What is asked, prepared as an architecture says, or its photographs by another preprocessing."""

_MOST_LEFT = 0.8
_DRAWS = 3
_AS_FAR = 2.0
_UNRELATED = 0.5
"""Cosine of two outputs below which they have nothing to do with one another, where they are far apart."""
_FAR = 0.5
_NEARER = 0.98
"""Of the total distance, what a hypothesis leaves at most with which pairs are made."""
_PAIRED = 2
"""With how many hypotheses pairs are made."""
LEAST_NUMBERS = 4
"""Below so many independent numbers in a target, a number that is fitted to them, or a text, shows nothing."""
_MOST_SAMPLES = 256
"""Images and texts of a question above which no pairs are made, since each pair asks all of it."""
_HALVINGS = 40
_GOLDEN = (math.sqrt(5) - 1) / 2
_HUGE = 1e6


@dataclass(frozen=True)
class Tried:
    """One hypothesis that was run.

    Attributes:
        variant: The hypothesis.
        residual: The greatest distance that it leaves.
        fits: Whether it explains the difference.
        total: How far all outputs are then, together.
        left_after: How far the model that gave the answers is from the record when this is undone on it; None where
            that was not tried.
    """

    variant: Variant
    residual: float
    fits: bool
    total: float
    left_after: float | None = None


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
    again: Question,
    left_after: Callable[[Variant], float] | None = None,
) -> Diagnosis:
    """Try hypotheses until one explains why a model's answers are not those of a target; then pairs of the likeliest.

    Args:
        built: The model itself.
        inputs: What it is asked; a small probe, since each hypothesis asks once.
        target: The answers to explain.
        variants: The hypotheses, the likeliest first.
        build: A model of its own for a hypothesis, over its architecture and weights.
        again: The same question, prepared otherwise.
        left_after: How far the model that gave the answers is from the record when a hypothesis is undone on it; of two
            that explain the same answers, this one tells them apart.
    """
    plain = built.ask(inputs)
    by_output = target.distances(plain)
    furthest = _furthest(by_output)
    if furthest <= target.tolerance:
        return Diagnosis(furthest, target.tolerance)
    trials = _Trials(built, plain, inputs, target, furthest, build, again, left_after)
    differing = _differing(built, by_output, target.tolerance)
    helpful = [each for each in variants if differing is None or _may_help(each, differing)]
    helpful.sort(key=lambda each: each.alone)
    for variant in helpful:
        if (differing is None or _may_explain(variant, differing)) and trials.try_out(variant):
            break
    if not any(each.fits for each in trials.tried) and trials.low_precision() is None:
        trials.try_pairs(helpful, _total(by_output))
    return Diagnosis(furthest, target.tolerance, trials.ranked(), trials.skipped, _unrelated(plain, target, by_output))


@dataclass
class _Trials:
    """Hypotheses that were run against one target.

    Attributes:
        furthest: How far the model itself is from the target.
        tried: Those that were run, in order.
        skipped: Those that could not be run, with the reason.
        prepared: The last way in which nothing but the inputs was another, and the answers, which several may conclude.
    """

    built: Built
    plain: ProbeOutputs
    inputs: Inputs
    target: Target
    furthest: float
    build: Callable[[Variant], Built]
    again: Question
    left_after: Callable[[Variant], float] | None
    tried: list[Tried] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    prepared: tuple[object, ProbeOutputs] | None = None

    def try_out(self, variant: Variant) -> bool:
        """Whether a hypothesis explains the difference; it is run once, and not where one of its name was."""
        words = f"{variant.name}: {variant.there}"
        if words in self.seen:
            return False
        self.seen.add(words)
        try:
            if variant.fitted is not None:
                if self.target.numbers < LEAST_NUMBERS:
                    return False
                variant = self._fitted(variant.fitted)
            tried = self._run(variant)
            if tried.fits and self.left_after is not None:
                tried = replace(tried, left_after=self.left_after(variant))
        except Exception as error:  # a wrong way to run a model may fail in any way
            self.skipped[words] = f"{type(error).__name__}: {one_line(error)}"
            return False
        self.tried.append(tried)
        return tried.fits and (tried.left_after or 0.0) <= self.target.tolerance

    def try_pairs(self, variants: Sequence[Variant], total: float) -> None:
        """Two hypotheses at once: those that bring the outputs nearest all in all, each with every other.

        Args:
            variants: All hypotheses, also those of one kind of inputs where outputs of both differ.
            total: How far the outputs are together.
        """
        for variant in variants:
            self.try_out(variant)
        if _samples(self.inputs) > _MOST_SAMPLES:
            return
        nearest = sorted((each for each in self.tried if not each.variant.approximate), key=lambda each: each.total)
        for base in [each.variant for each in nearest if each.total <= _NEARER * total][:_PAIRED]:
            for other in variants:
                plain = not other.approximate and other.fitted is None
                both = together(base, other, self.built.architecture) if plain else None
                if both is not None and self.try_out(both):
                    return

    def ranked(self) -> list[Tried]:
        """Those that fit first, then those that leave least; low precision fits where it explains most."""
        likely = self.low_precision()
        tried = self.tried
        if likely is not None:
            left = None if self.left_after is None else self.left_after(likely.variant)
            tried = [replace(each, fits=True, left_after=left) if each is likely else each for each in tried]
        return sorted(tried, key=lambda each: (not each.fits, each.left_after or 0.0, each.residual))

    def low_precision(self) -> Tried | None:
        """Low precision, where nothing fits, and it explains most of the difference and more than anything else does.

        Weights that were rounded would fit closely. Where they do not, they are no rival: products in TF32 round the
        same weights, and more.
        """
        if any(each.fits for each in self.tried):
            return None
        rivals = [each for each in self.tried if each.variant.approximate or each.variant.name != "precision"]
        nearest = min(rivals, key=lambda each: each.residual, default=None)
        if nearest is None or not nearest.variant.approximate:
            return None
        return nearest if nearest.residual <= _MOST_LEFT * self.furthest else None

    def _run(self, variant: Variant) -> Tried:
        answers = self._answers(variant)
        distances = self.target.distances(answers)
        residual, total = _furthest(distances), _total(distances)
        if residual > self.target.tolerance and variant.native_mode:
            # Random from draw to draw: it fits when the answers are about as far off as its own are.
            draws = [answers, *(self._answers(variant) for _ in range(_DRAWS))]
            if _furthest(target_of(draws[0], self.target).distances(draws[1])) > self.target.tolerance:
                own = [_furthest(target_of(self.plain, self.target).distances(draw)) for draw in draws]
                typical = sum(own) / len(own)
                return Tried(variant, residual, typical / _AS_FAR <= self.furthest <= typical * _AS_FAR, total)
        return Tried(variant, residual, residual <= self.target.tolerance, total)

    def _fitted(self, variant: Callable[[float], Variant]) -> Variant:
        """The variant with the number for which the sum of squared distances is least, as short as it still fits."""

        def left(value: float) -> float:
            distances = self.target.distances(self._answers(variant(value)))
            return sum(min(far, _HUGE) ** 2 for far in distances.values())

        coarse = [10 ** (step / 10) for step in range(-20, 31)]
        nearest = min(coarse, key=left)
        low, high = math.log(nearest) - 0.3, math.log(nearest) + 0.3
        for _ in range(_HALVINGS):
            one, other = high - (high - low) * _GOLDEN, low + (high - low) * _GOLDEN
            low, high = (low, other) if left(math.exp(one)) <= left(math.exp(other)) else (one, high)
        best = math.exp((low + high) / 2)
        for digits in (2, 3, 4, 5):
            short = float(f"{best:.{digits}g}")
            if _furthest(self.target.distances(self._answers(variant(short)))) <= self.target.tolerance:
                return variant(short)
        return variant(best)

    def _answers(self, variant: Variant) -> ProbeOutputs:
        """What the model says when it is run as a hypothesis has it."""
        answers = self.plain
        otherwise = (variant.alter, variant.architecture, variant.preprocess, variant.state)
        prepared_alone = variant.prepare is not None and otherwise == (None,) * 4
        if prepared_alone and self.prepared is not None and self.prepared[0] is variant.prepare:
            answers = self.prepared[1]
        elif prepared_alone or any(each is not None for each in otherwise):
            model, inputs = self.build(variant), self.inputs
            if variant.alter is not None:
                variant.alter(model.module)
            if variant.architecture is not None or variant.preprocess is not None:
                inputs = self.again(variant.architecture or self.built.architecture, variant.preprocess)
            if variant.prepare is not None:
                inputs = variant.prepare(inputs)
            answers = model.ask(inputs, native_mode=variant.native_mode)
            if prepared_alone:
                self.prepared = variant.prepare, answers
        if variant.conclude is None:
            return answers
        built = self.built
        with torch.no_grad():
            outputs = variant.conclude(built.module, dict(answers.outputs))
        readings = built.family.readings(built.architecture, built.module, answers.inputs, outputs)
        return ProbeOutputs(answers.inputs, outputs, readings, answers.threads)


def _samples(inputs: Inputs) -> int:
    """Images, and texts in all their templates."""
    return sum(t.shape[:-1].numel() if kind == "tokens" else len(t) for kind, t in inputs.tensors.items())


def _total(distances: Mapping[str, float]) -> float:
    """How far all outputs are together; what is further than unrelated ones are counts as that."""
    return sum(min(far, math.sqrt(2)) if not math.isnan(far) else math.sqrt(2) for far in distances.values())


def _furthest(distances: Mapping[str, float]) -> float:
    return max((far if not math.isnan(far) else math.inf for far in distances.values()), default=0.0)


def _differing(built: Built, by_output: Mapping[str, float], tolerance: float) -> set[str] | None:
    """Kinds of inputs of which an output differs; None where outputs are not told by kind."""
    kinds = {built.family.rows[name]: False for name in by_output if name in built.family.rows}
    for name, far in by_output.items():
        if name in built.family.rows and far > tolerance:
            kinds[built.family.rows[name]] = True
    return {kind for kind, differs in kinds.items() if differs} if kinds else None


def _may_help(variant: Variant, differing: set[str]) -> bool:
    """Whether a hypothesis is of something that differs."""
    return _may_explain(variant, differing) or variant.concerns in differing


def _may_explain(variant: Variant, differing: set[str]) -> bool:
    """Whether a hypothesis is of what differs: one kind of inputs, all of them, or only what is concluded of them."""
    if not differing:
        return variant.conclude is not None
    return variant.concerns is None or differing == {variant.concerns}


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

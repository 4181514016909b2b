"""What two answers that differ come to: how far apart, from which layer on, and what explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.checks.target import VerificationTarget
from manifest.errors import ArchitectureError
from manifest.escaping import printable
from manifest.families import family
from manifest.families.protocol import Family, Variant
from manifest.golden.compare import Comparison
from manifest.golden.diagnose import Diagnosis, Question, Tried, diagnose
from manifest.golden.floor import Built
from manifest.golden.hypotheses import hypotheses
from manifest.golden.hypotheses.activations import restored
from manifest.golden.layers import finite, first_divergence, layer_distance
from manifest.golden.precision import in_float32
from manifest.golden.record import prepared
from manifest.golden.run import ProbeOutputs
from manifest.golden.targets import OutputsTarget, Target
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Inputs, Preprocessing, Probe, shipped
from manifest.schema.document import Architecture, Golden, Layer, Reading
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.weights.assign import twin


@dataclass(frozen=True)
class RecordedModel:
    """The model of a checkpoint in float32, as its manifest has it, and as it might be wrong.

    Attributes:
        family: Of the model.
        architecture: As recorded.
        checkpoint: Its weights.
        module: That model, where it is at hand already.
    """

    family: Family
    architecture: Architecture
    checkpoint: Checkpoint
    module: nn.Module | None = None

    @cached_property
    def built(self) -> Built:
        """The model itself."""
        module = self._module(self.architecture) if self.module is None else self.module
        return Built(self.family, self.architecture, module)

    def build(self, variant: Variant) -> Built:
        """A model for a hypothesis, of its own where it is another one or is to be altered by whoever asked."""
        architecture = variant.architecture or self.architecture
        if variant.state is None and _same_module(architecture, self.architecture):
            module = self.built.module
            return Built(self.family, architecture, module if variant.alter is None else twin(module))
        if variant.state is None:
            return Built(self.family, architecture, self._module(architecture))
        other = self.checkpoint.select(variant.state)
        return Built(self.family, architecture, in_float32(self.family, architecture, other))

    def variants(self, inputs: Inputs) -> Iterator[Variant]:
        """All hypotheses: the family's own, other weights in the same file, and those that fit any model."""
        module = self.built.module
        of_library = (
            replace(variant, undo=partial(restored, recorded=module)) if variant.name == "activation" else variant
            for variant in self.family.variants(self.architecture)
        )
        prepared = self.family.probe_preprocess(self.architecture)
        return chain(of_library, self._other_states(), hypotheses(self.architecture, prepared, module, inputs))

    @neutral_process(generators=False)  # dropout draws what it drew when the answers were given
    def diagnose(
        self,
        target: Target,
        question: Question,
        left_after: Callable[[Variant], float] | None = None,
        likelier: Iterable[Variant] = (),
    ) -> Diagnosis:
        """Why the model's answers are not those of a target, hypotheses that are likelier first; `golden.diagnose`."""
        inputs = question(self.architecture, None)
        variants = chain(likelier, self.variants(inputs))
        return diagnose(self.built, inputs, target, variants, self.build, question, left_after)

    def _other_states(self) -> Iterator[Variant]:
        recorded = self.checkpoint.state_path
        for candidate in self.checkpoint.candidates:
            if candidate.path != recorded:
                there = _state_words(candidate.path)
                yield Variant(
                    "weights",
                    here=_state_words(recorded),
                    there=there,
                    cure=f"`manifest create CKPT --state {there}`, which describes those weights",
                    back=_loading(self.family.name, recorded),
                    state=candidate.path,
                    undo=partial(_load, recorded=self.built.module),
                )

    def _module(self, architecture: Architecture) -> nn.Module:
        return in_float32(self.family, architecture, self.checkpoint)


def _state_words(path: Sequence[str]) -> str:
    return printable(".".join(path), 100) or "the weights at the top"


def _loading(family_name: str, path: Sequence[str]) -> str:
    """Code by which a script of the caller's own takes one set of weights of a file."""
    if family_name == "timm" and path in (("state_dict",), ("state_dict_ema",)):
        return f"timm.models.load_checkpoint(model, CKPT, use_ema={path == ('state_dict_ema',)})"
    keys = "".join(f"[{printable(name, 100)!r}]" for name in path)
    return f"model.load_state_dict(torch.load(CKPT){keys})"


def _load(module: nn.Module, recorded: nn.Module) -> None:
    """Put the recorded weights in place of a module's own, which stay as they are."""
    module.load_state_dict(recorded.state_dict(), assign=True)


def _same_module(one: Architecture, other: Architecture) -> bool:
    """Whether two architectures differ at most in how inputs are prepared."""
    prepared = {"preprocess": None, "tokenizer": None}
    return one.model_copy(update=prepared) == other.model_copy(update=prepared)


def recorded_model(subject: VerificationTarget) -> RecordedModel:
    """The model of a checkpoint that is checked.

    Raises:
        CheckpointError: The file cannot be read.
    """
    if not isinstance(subject.stored, Checkpoint):
        raise subject.stored
    architecture = subject.manifest.architecture
    return RecordedModel(family(architecture.family), architecture, subject.stored)


def golden_mismatch_finding(
    original: RecordedModel, golden: Golden, answers: ProbeOutputs, worst: Comparison, probe: Probe | None = None
) -> Finding:
    """The finding for a rebuilt model that gives other outputs than are on record.

    Args:
        original: The model of the checkpoint, which gives those outputs.
        golden: The record.
        answers: What the model said to the whole probe.
        worst: The output that is furthest off.
        probe: What was asked, where it is the user's own.
    """
    first = original.built.ask(answers.inputs.first(), layers=True)
    target = OutputsTarget(golden.brief or golden.outputs, worst.tolerance)
    diagnosis = original.diagnose(target, question_of(original, golden, probe, brief=bool(golden.brief)))
    departure = first_divergence(golden.layers, first.layers, worst.tolerance)
    message = (
        f"The rebuilt model gives other {worst.output}: {distance_words(golden, worst)}"
        f"{greatest_change(golden.reading, answers.readings)}."
    )
    message += layer_words(departure, known=bool(golden.layers))
    evidence = {
        **measures(golden, worst),
        **layer_evidence(golden.layers, first.layers, worst.tolerance),
        **diagnosis_evidence(diagnosis),
    }
    if diagnosis.cause is None:
        message += unexplained_words(diagnosis)
        return finding("G001", message, where="golden", **evidence)
    message += f" The recorded outputs come back with {cause_words(diagnosis.cause)}."
    remedy = f"Build it rightly: {diagnosis.cause.variant.cure}"
    return finding("G001", message, where="golden", severity=Severity.ERROR, remedy=remedy, **evidence)


def question_of(
    original: RecordedModel, golden: Golden, probe: Probe | None = None, *, brief: bool = False
) -> Question:
    """A recorded probe as an architecture would prepare it.

    Args:
        original: The model.
        golden: The record.
        probe: What was asked, where it is the user's own.
        brief: The first sample of each kind alone.
    """

    def question(architecture: Architecture, preprocess: Preprocessing | None = None) -> Inputs:
        material = probe if preprocess is None else replace(probe or shipped(), preprocess=preprocess)
        inputs = original.family.inputs(architecture, golden.probe, material)
        if inputs is None or inputs.probe != golden.probe:
            raise ArchitectureError(f"The probe {golden.probe} cannot be made here; fetch the recorded tokenizer once.")
        return inputs.first() if brief else inputs

    return question


def measures(golden: Golden, worst: Comparison) -> dict[str, Any]:
    """The numbers of a comparison, for whoever sets a tolerance."""
    return {
        "output": worst.output,
        "distance": worst.distance,
        "absolute": worst.absolute,
        "tolerance": worst.tolerance,
        "floor": golden.floor,
        "contrast": golden.contrast,
        "least_passing": {"relative": worst.distance, "absolute": worst.absolute},
    }


def layer_evidence(recorded: Sequence[Layer], found: Mapping[str, Layer], allowed: float) -> dict[str, Any]:
    """How far each layer on record is off, in the order of the model, and how far arithmetic explains it.

    Args:
        recorded: The layers on record.
        found: The layers now, by path; none where they were not watched.
        allowed: The greatest relative distance of an output that arithmetic explains.

    Returns:
        The distance of each by its path, None where it is not finite or the layer did not run, and the floor of each.
    """
    if not found:
        return {}
    distances = {
        layer.module: layer_distance(layer, found[layer.module]) if layer.module in found else math.inf
        for layer in recorded
    }
    floors = {layer.module: max(allowed, layer.floor) for layer in recorded}
    return {"layers": finite(distances), "layer_floors": floors}


def distance_words(golden: Golden, worst: Comparison) -> str:
    """How far off an output is, and how far arithmetic and a wrong model would move it."""
    words = f"relative distance {worst.distance:.1e}, absolute {worst.absolute:.1e}"
    words += f", where arithmetic explains {worst.tolerance:.1e}"
    if golden.contrast:
        wrong, contrast = min(golden.contrast.items(), key=lambda item: item[1])
        words += f" and {wrong} gives {contrast:.1e}"
    return words


def diagnosis_evidence(diagnosis: Diagnosis) -> dict[str, Any]:
    """What was tried, for machines."""
    return {
        "hypotheses": [
            {"name": tried.variant.name, "there": tried.variant.there, "residual": tried.residual, "fits": tried.fits}
            for tried in diagnosis.tried[:5]
        ],
        "not_run": dict(diagnosis.skipped),
    }


def cause_words(cause: Tried) -> str:
    """The hypothesis that fits, and how far it is from fitting exactly."""
    parts = cause.variant.parts or (cause.variant,)
    words = " and ".join(f"{part.there} instead of {part.here} ({part.name})" for part in parts)
    return f"{words}, which leaves {cause.residual:.1e}"


def unexplained_words(diagnosis: Diagnosis) -> str:
    """What is said when no hypothesis fits."""
    if diagnosis.agrees:
        return " All that it computes is as recorded; what is made of it differs, as by a threshold."
    words = f" None of {len(diagnosis.tried)} hypotheses explains it"
    best = diagnosis.tried[0] if diagnosis.tried else None
    if best is not None and best.residual <= diagnosis.distance / 2:
        words += f"; {best.variant.there} ({best.variant.name}) comes nearest and leaves {best.residual:.1e}"
    if diagnosis.unrelated:
        words += (
            f". {', '.join(diagnosis.unrelated)}: nothing in common with the record, as of another tower or a fresh one"
        )
    return words + "."


def inputs_apart(recorded: Sequence[Layer], inputs: Inputs | Sequence[Layer]) -> dict[str, float]:
    """How far inputs are from those on record, by kind, where they are not the same."""
    now = prepared(inputs) if isinstance(inputs, Inputs) else inputs
    found = {layer.module: layer for layer in now}
    apart = {then.module: layer_distance(then, found[then.module]) for then in recorded if then.module in found}
    return {kind: distance for kind, distance in apart.items() if distance > 0}


def layer_words(departure: tuple[Layer, float] | None, *, known: bool) -> str:
    """Which layer departs first, where layers are on record."""
    if departure is None:
        return " No recorded layer departs, so what differs comes after them, as a projection does." if known else ""
    layer, distance = departure
    return f" The first layer to depart is {layer.module}, by {distance:.1e}."


def greatest_change(recorded: Sequence[Reading], found: Sequence[Reading]) -> str:
    """The image and prompt whose probability moved most, and how often the likeliest changed; '' where none is read."""
    now: Mapping[str, Reading] = {reading.image: reading for reading in found}
    changes = [
        (then.image, prompt, before, now[then.image].prompts.get(prompt, 0.0))
        for then in recorded
        if then.image in now
        for prompt, before in then.prompts.items()
    ]
    if not changes:
        return ""
    image, prompt, before, after = max(changes, key=lambda change: abs(change[3] - change[2]))
    turned = [
        then.image
        for then in recorded
        if then.prompts
        and then.image in now
        and now[then.image].prompts
        and _likeliest(then) != _likeliest(now[then.image])
    ]
    words = f"; for {image!r}, {prompt!r} went from {before:.4f} to {after:.4f}"
    return words + (f", and the likeliest answer changed for {', '.join(turned)}" if turned else "")


def _likeliest(reading: Reading) -> str:
    return max(reading.prompts, key=lambda prompt: reading.prompts[prompt])

"""Comparing what a model says, as its owner runs it, with what its checkpoint's manifest has on record.

The model may be here, or its answers may come from another machine, as a file: they are of the size of a manifest, and
hold no weights and no images.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.checks.another_model import another_model
from manifest.checks.explanation import (
    RecordedModel,
    cause_words,
    diagnosis_evidence,
    distance_words,
    greatest_change,
    inputs_apart,
    layer_evidence,
    layer_words,
    measures,
    question_of,
    recorded_model,
    unexplained_words,
)
from manifest.checks.integrity import integrity
from manifest.checks.ladder import CheckResult
from manifest.checks.live_weights import LiveWeights, live_findings, live_weights
from manifest.checks.rebuild import structure_findings
from manifest.checks.records import contrast_here
from manifest.checks.target import Check, VerificationTarget, open_target, run_checks
from manifest.errors import ArchitectureError, InputError
from manifest.escaping import printable
from manifest.families import family_of
from manifest.families.equivalence import first_difference
from manifest.families.opaque.adapter import FAMILY as OPAQUE
from manifest.families.protocol import Variant
from manifest.families.wrappers import unwrap
from manifest.golden.compare import COARSE, Comparison, Grade, agree, agreement, tolerance, worst_of
from manifest.golden.compare import compare as compare_outputs
from manifest.golden.layers import first_divergence
from manifest.golden.plausible import implausibilities
from manifest.golden.precision import in_precision
from manifest.golden.run import run_probe
from manifest.golden.targets import OutputsTarget
from manifest.grants import granted
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Probe, shipped
from manifest.schema.document import Golden
from manifest.schema.report import CANNOT_TELL, Finding, Kind, Report, Severity
from manifest.schema.rules import finding
from manifest.weights.assign import twin
from manifest.workflows.across_libraries import across_libraries, not_comparable
from manifest.workflows.answering import (
    FOR_EVALUATION,
    PRECISIONS,
    NotFiniteError,
    RandomInputsError,
    answer_of,
    golden_of,
    read_answers,
)

_log = logging.getLogger(__name__)
_AS_RECORDED = "Build it as it is on record, which is named first; if the change was meant, save the model anew."


def compare(
    answers: nn.Module | Golden | str | os.PathLike[str],
    checkpoint: str | os.PathLike[str],
    *,
    preprocess: Any = None,
    tokenizer: Any = None,
    across_precisions: bool = False,
    allow: Sequence[str] = (),
) -> Report:
    """Hold what a model says, as it is run, to what its checkpoint's manifest has on record, and explain a difference.

    Args:
        answers: The model, or what it said: as `answer` returned it, or the JSON file of that.
        checkpoint: The checkpoint; it is rebuilt only where there is a difference to explain.
        preprocess: As of `answer`.
        tokenizer: As of `answer`.
        across_precisions: Let answers in a lower precision than is on record pass that are no further from it than
            that precision moves the recorded model; otherwise only those that are further are told.
        allow: Modules of your own that may be imported to rebuild the model.

    Returns:
        A rung for the weights of a live model, one for the golden outputs and one for integrity. Distances are
        relative: the L2 norm of the difference, which sketches tell within about 9%, over that of the recorded output.

    Raises:
        NoManifestError: There is no manifest to go by.
        InputError: The answers are not those to this checkpoint's probe.

    Example:
        >>> model = manifest.load("ckpt.pt")
        >>> report = manifest.compare(model, "ckpt.pt")
        >>> [f"{rung.name}: {rung.outcome}" for rung in report.rungs]
        ['weights: pass', 'golden: pass', 'integrity: pass']
    """
    subject = open_target(checkpoint)
    try:
        with granted(allow):
            if isinstance(answers, nn.Module):
                material = Probe(preprocess=preprocess, tokenizer=tokenizer)
                rungs = _of_model(subject, answers, material, across_precisions)
            else:
                found = answers if isinstance(answers, Golden) else read_answers(Path(answers))
                rungs = [("golden", lambda each: _hold(each, found, across_precisions))]
            # The record speaks for the checkpoint only if it is of these bytes.
            return run_checks(subject, [*rungs, ("integrity", integrity)], Kind.COMPARE)
    finally:
        subject.close()


def _of_model(subject: VerificationTarget, model: nn.Module, material: Probe, across: bool) -> list[tuple[str, Check]]:
    """The rungs of a model in memory: what it says, and whether its weights are those on record.

    The model is asked first, since a caller's mistake in that is an error and no report.
    """
    module, weights = unwrap(model), live_weights(model, subject.manifest)
    if subject.manifest.architecture.family == OPAQUE.name:
        return _of_opaque(subject, module, weights, material)
    if (another := another_model(module, weights, subject.manifest)) is not None:
        return [("golden", lambda each: _of_another(each, module, another, material))]
    try:
        found: Golden | Finding = answer_of(module, subject.manifest, material)
    except NotFiniteError as error:
        found = finding("G004", str(error), where="golden")
    except RandomInputsError as error:
        found = finding(CANNOT_TELL, str(error), where="golden", remedy=FOR_EVALUATION)

    def golden(each: VerificationTarget) -> CheckResult:
        if isinstance(found, Finding):
            return CheckResult("NaN or infinity" if found.rule == "G004" else "cannot be told", [found])
        return _hold(each, found, across, module, weights)

    return [("weights", partial(_same_weights, module, weights)), ("golden", golden)]


def _same_weights(module: nn.Module, weights: LiveWeights, subject: VerificationTarget) -> CheckResult:
    """Whether the weights of a live model are those on record."""
    stored = subject.stored if isinstance(subject.stored, Checkpoint) else None
    findings = live_findings(weights, module, subject.manifest, stored)
    return CheckResult(weights.reason(), findings, skipped=not weights.compared)


def _of_opaque(
    subject: VerificationTarget, module: nn.Module, weights: LiveWeights, material: Probe
) -> list[tuple[str, Check]]:
    """The rungs of a model that its record does not say how to build, and that the caller has built."""
    answers = answer_of(module, subject.manifest, material) if subject.manifest.golden else None

    def same_modules(each: VerificationTarget) -> CheckResult:
        findings = structure_findings(each.manifest.architecture, module, remedy=_AS_RECORDED)
        return CheckResult("other modules" if findings else "the recorded modules and hyper-parameters", findings)

    def same_weights(each: VerificationTarget) -> CheckResult:
        result = _same_weights(module, weights, each)
        if answers is not None:
            return result
        # Nothing else tells whether that matters.
        errors = [found.model_copy(update={"severity": Severity.ERROR}) for found in result.findings]
        return replace(result, findings=errors)

    def golden(each: VerificationTarget) -> CheckResult:
        if answers is None:
            return CheckResult("none recorded", [finding("G003", "The manifest records no outputs.")], skipped=True)
        record = golden_of(each.manifest, answers.precision)
        comparisons = compare_outputs(record, answers.outputs, answers.reading, device=answers.device)
        if agree(comparisons):
            return CheckResult(agreement(comparisons))
        worst = worst_of(comparisons)
        message = f"The model gives other {worst.output} than its checkpoint: {distance_words(record, worst)}."
        return CheckResult("different", [finding("G001", message, where="golden", **measures(record, worst))])

    return [("architecture", same_modules), ("weights", same_weights), ("golden", golden)]


def _of_another(subject: VerificationTarget, module: nn.Module, another: Finding, material: Probe) -> CheckResult:
    """A model that is not the recorded one; of another library, it may be the same function all the same."""
    said = CheckResult("another model", [another])
    if another.rule != CANNOT_TELL:
        return said
    try:
        original, other = recorded_model(subject), family_of(module)
        probe = replace(shipped(), preprocess=material.preprocess, tokenizer=material.tokenizer)
        inputs = original.family.inputs(original.architecture, None, probe)
        found = None if inputs is None else across_libraries(original, other, module, inputs)
    except ArchitectureError as error:
        _log.debug("models of two libraries could not be compared: %s", error)
        return said
    except Exception as error:  # a model of another library may refuse what it is asked in any way
        return not_comparable(error)
    return said if found is None else found


def _hold(
    subject: VerificationTarget,
    found: Golden,
    across: bool,
    model: nn.Module | None = None,
    weights: LiveWeights | None = None,
) -> CheckResult:
    golden = golden_of(subject.manifest, found.precision)
    if found.probe != golden.probe:
        raise InputError(
            f"The answers are to the probe {found.probe}, expected {golden.probe}; answer that of this checkpoint."
        )
    if (wrong := next(implausibilities(golden), None)) is not None:
        message = f"{printable(wrong[0].upper() + wrong[1:], 400)}."
        return CheckResult("nothing to compare with", [finding("G008", message, where="golden")])
    # More digits than are on record move nothing that fewer would not.
    if across or found.precision in (golden.precision, "fp64"):
        return _held(subject, golden, found, model, weights)
    return _of_lower_precision(subject, golden, found, model, weights)


def _of_lower_precision(
    subject: VerificationTarget, golden: Golden, found: Golden, model: nn.Module | None, weights: LiveWeights | None
) -> CheckResult:
    """Answers in a precision that is not on record: what it does not explain differs, and of the rest none can tell."""
    message = (
        f"The answers are of a model in {printable(found.precision, 40)}, and those on record in {golden.precision}: "
        "low precision moves outputs as far as a wrong activation, so that the two are not told apart."
    )
    remedy = "Ask the model in float32, as `manifest.load(CKPT)` gives it"
    try:
        held = _held(subject, golden, found, model, weights)
    except (ArchitectureError, InputError) as error:
        _log.debug("answers in %s could not be compared: %s", found.precision, error)
    else:
        if any(each.rule == "G001" for each in held.findings):
            return held
        if not held.findings:  # else even that would tell nothing
            remedy += ", or pass across_precisions=True (`--across-precisions`)"
    return CheckResult("cannot be told", [finding(CANNOT_TELL, message, where="golden", remedy=f"{remedy}.")])


def _held(
    subject: VerificationTarget, golden: Golden, found: Golden, model: nn.Module | None, weights: LiveWeights | None
) -> CheckResult:
    """Answers compared with a record, whatever the precision of either."""
    across, device = found.precision != golden.precision, found.device
    here = _precision_floor(recorded_model(subject), golden, found.precision) if across else {}
    comparisons = compare_outputs(golden, found.outputs, found.reading, here=here, device=device, across=across)
    allowed = tolerance(golden, here, device=device, across=across)
    if worst_of(comparisons).grade is not Grade.EXACT and allowed.explained > COARSE:
        original = recorded_model(subject)
        contrast = contrast_here(original, golden, question_of(original, golden)(original.architecture, None))
        allowed = tolerance(golden, here, contrast=contrast, device=device, across=across)
        comparisons = compare_outputs(
            golden, found.outputs, found.reading, here=here, contrast=contrast, device=device, across=across
        )
    worst = worst_of(comparisons)
    if agree(comparisons):
        return CheckResult(agreement(comparisons))
    if worst.grade is Grade.UNCERTAIN:
        return CheckResult("cannot be told", [_uncertain(golden, found, worst)])
    # Of several sets of weights in the file, the diagnosis tells whether the model has another.
    several = isinstance(subject.stored, Checkpoint) and len(subject.stored.candidates) > 1
    if model is not None and weights is not None and weights.differ and not several:
        return CheckResult("different", [_of_other_weights(golden, found, worst, weights)])
    explained = _explained(subject, golden, found, worst, allowed.equivalent, model)
    if model is not None and weights is not None and weights.all_same:
        explained = explained.model_copy(update={"message": explained.message + _same_weights_words(subject, model)})
    return CheckResult("different", [explained])


def _of_other_weights(golden: Golden, found: Golden, worst: Comparison, weights: LiveWeights) -> Finding:
    """Other answers of a model that has other weights, which is all that there is to explain."""
    message = (
        f"The model gives other {worst.output} than its checkpoint: {distance_words(golden, worst)}"
        f"{greatest_change(golden.reading, found.reading)}. Its weights are not those on record: {weights.reason()}."
    )
    remedy = "Load the weights: `manifest.load(CKPT)`; or, if they were meant to change, save the model anew."
    return finding("G001", message, where="golden", remedy=remedy, **measures(golden, worst))


def _same_weights_words(subject: VerificationTarget, model: nn.Module) -> str:
    """What else may differ about a model that has the recorded weights: its modules and tables, else code or input."""
    departure = first_difference(recorded_model(subject).built.module, model)
    if departure is None:
        return " All of its weights are the recorded ones, and so are its modules; what differs is code, mode or input."
    return f" All of its weights are the recorded ones; its modules are not: {printable(departure, 200)}."


def _uncertain(golden: Golden, found: Golden, worst: Comparison) -> Finding:
    message = (
        f"The {worst.output} differ from the record by {worst.distance:.1e}, and arithmetic in {found.precision} on "
        f"{found.device} could move them as far; up to {worst.tolerance:.1e} it tells a wrong model from a right one."
    )
    remedy = f"Ask the model in {golden.precision} on the {golden.device}, as the record was made."
    return finding(CANNOT_TELL, message, where="golden", remedy=remedy, **measures(golden, worst))


@neutral_process()
def _precision_floor(original: RecordedModel, golden: Golden, precision: str) -> dict[str, float]:
    """How far a precision moves the model that is on record."""
    inputs = question_of(original, golden)(original.architecture, None)
    if precision.startswith("amp_"):
        dtype = next((dtype for dtype, name in PRECISIONS.items() if name == precision.removeprefix("amp_")), None)
        if dtype is None:
            raise InputError(
                f"The answers are of a model in {printable(precision, 40)}, which torch does not have; ask it anew."
            )
        with torch.autocast("cpu", dtype=dtype):
            said = original.built.ask(inputs, native_mode=True)
    else:
        said = in_precision(original.built, precision).ask(inputs)
    return {precision: max(each.distance for each in compare_outputs(golden, said.record()))}


def _explained(
    subject: VerificationTarget,
    golden: Golden,
    found: Golden,
    worst: Comparison,
    allowed: float,
    model: nn.Module | None,
) -> Finding:
    """What is different about a model that gives other answers than its checkpoint, and what makes it right.

    What makes it right is tried on the model, where it is here, before it is called that.
    """
    original = recorded_model(subject)
    brief = {name: output for name, output in found.brief.items() if not golden.brief or name in golden.brief}
    target = OutputsTarget(brief, allowed)
    left_after = None if model is None else partial(_left_after, original, model, golden)
    diagnosis = original.diagnose(target, question_of(original, golden, brief=True), left_after)
    if diagnosis.agrees or (diagnosis.cause is not None and diagnosis.cause.variant.concerns is not None):
        # The first sample alone may not show it, or not all of it, as where only the others are not square.
        target = OutputsTarget(found.outputs, allowed)
        diagnosis = original.diagnose(target, question_of(original, golden), left_after)
    now = {layer.module: layer for layer in found.layers}
    departure = first_divergence(golden.layers, now, worst.tolerance)
    message = (
        f"The model gives other {worst.output} than its checkpoint: {distance_words(golden, worst)}"
        f"{greatest_change(golden.reading, found.reading)}."
    )
    if apart := inputs_apart(golden.prepared, found.prepared):
        words = ", ".join(f"{kind} by {distance:.1e}" for kind, distance in apart.items())
        message += f" Its inputs are other ones already: {words}."
    message += layer_words(departure, known=bool(golden.layers and found.layers))
    if found.precision != golden.precision:
        message += (
            f" Its precision, {found.precision} instead of {golden.precision}, is among what arithmetic explains."
        )
    layers = layer_evidence(golden.layers, now, worst.tolerance)
    evidence = {**measures(golden, worst), **layers, **diagnosis_evidence(diagnosis)}
    on_record = original.architecture.preprocess or original.architecture.tokenizer
    inputs_too = ", with `manifest.load_transforms(CKPT)`" if on_record else ""
    remedy = f"Rebuild it as it was saved: `manifest.load(CKPT)`{inputs_too}."
    if diagnosis.cause is None:
        return finding("G001", message + unexplained_words(diagnosis), where="golden", remedy=remedy, **evidence)
    message += f" These are its answers with {cause_words(diagnosis.cause)}."
    back, left = diagnosis.cause.variant.back, diagnosis.cause.left_after
    if left is None:
        remedy = f"A lead, since the model itself is not here to try it: {back}"
    elif left <= allowed:
        remedy = f"Run it as it was saved: {back} (tried on this model: it then answers as recorded)"
    else:
        remedy = f"A lead: {back}. Tried on this model, it leaves {left:.1e}; {remedy[0].lower()}{remedy[1:]}"
    return finding("G001", message, where="golden", severity=Severity.ERROR, remedy=remedy, **evidence)


def _left_after(original: RecordedModel, model: nn.Module, golden: Golden, variant: Variant) -> float:
    """How far a live model still is from the record when a cause is undone on it: in a twin, on the recorded inputs.

    Infinite where that cannot be run.
    """
    try:
        inputs = question_of(original, golden)(original.architecture, None)
        mended = twin(model)
        if variant.undo is not None:
            variant.undo(mended)
        with torch.autocast("cpu", enabled=False):
            said = run_probe(original.family, original.architecture, mended, inputs, native_mode=True)
    except Exception as error:  # a model of the caller's own, altered from outside, may fail in any way
        _log.debug("the cure could not be tried: %s", error)
        return math.inf
    return worst_of(compare_outputs(golden, said.record(), said.readings)).distance

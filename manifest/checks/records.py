"""A record of golden outputs held against what the same model says: is each of its numbers one that asking gives?

That the outputs agree is not enough: what they are compared by (floor, contrast, layers) must be true as well, or the
next comparison shows nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from manifest.checks.explanation import RecordedModel
from manifest.escaping import printable
from manifest.golden.compare import (
    FLOAT32_EPSILON,
    MULTIPLE,
    SHARE_OF_CONTRAST,
    WIDEST,
    Comparison,
    compare,
    worst_of,
)
from manifest.golden.detections import OBJECTS, RESOLUTION
from manifest.golden.floor import Built, measure
from manifest.golden.layers import layer_distance
from manifest.golden.plausible import BELIEVABLE
from manifest.golden.reach import unreached
from manifest.golden.record import contrasted, prepared
from manifest.golden.run import ProbeOutputs
from manifest.golden.thoroughness import Thoroughness
from manifest.probes.inputs import Inputs
from manifest.schema.document import Golden, Output, Reading
from manifest.schema.name_ranges import listed
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import component_tensors, role_words

_SAME = 1e-6
"""Relative difference of two numbers that were computed from the same values, in another order."""
_ORDINARY = 1e-5
"""Most models' floors in float32 are below; a greater one is measured again."""
_ROUNDING = 2e-4
_WRITTEN = 6e-5
"""Probabilities are written with four digits."""


def record_findings(
    original: RecordedModel, golden: Golden, answers: ProbeOutputs, comparisons: Sequence[Comparison]
) -> list[Finding]:
    """What in a record is not what asking the model gives.

    Args:
        original: The model, in the record's precision.
        golden: The record, whose outputs agree.
        answers: What the model says to the whole probe.
        comparisons: How its outputs compare.
    """
    built = original.built
    first = built.ask(answers.inputs.first(), layers=True)
    allowed = max(worst_of(comparisons).tolerance, max(item.distance for item in comparisons))
    exact = all(item.distance == 0 for item in comparisons)
    sentences = [
        *_outputs("outputs", golden.outputs, _asked_then(built, golden, answers.record()), allowed),
        *_brief(golden, built, first, allowed),
        *_layers(golden, first, allowed, exact=exact),
        *_prepared(golden, answers),
        *_contrast(original, golden, answers, first),
        *_floor(built, golden, answers, first),
        *_reach(built, golden, answers.inputs, exact=exact),
        *_readings(golden.reading, answers.readings, max(item.distance for item in comparisons)),
    ]
    if golden.batch != len(next(iter(answers.inputs.tensors.values()))):
        sentences.append(f"the record is of {golden.batch} samples, and the probe has another number")
    where = printable(f"golden {golden.probe}")
    found = [finding("G008", f"{printable(text[0].upper() + text[1:], 400)}.", where=where) for text in sentences]
    if found or not (names := _other_digests(golden, answers.record(), first.record())):
        return found
    message = (
        f"The digest of {', '.join(names)} is not the model's, whose sketch is the recorded one to the last digit."
    )
    return [finding("G008", printable(message, 400), where=where, severity=Severity.WARNING)]


def _other_digests(golden: Golden, whole: Mapping[str, Output], first: Mapping[str, Output]) -> list[str]:
    """Outputs of another digest and the same sketch; -0.0 for 0.0, from other kernels, would be one."""
    pairs = [(name, then, whole) for name, then in golden.outputs.items()]
    pairs += [(name, then, first) for name, then in golden.brief.items()]
    return [
        name
        for name, then, found in pairs
        if name in found and then.digest != found[name].digest and then.sketch == found[name].sketch
    ]


def contrast_here(original: RecordedModel, golden: Golden, inputs: Inputs) -> dict[str, float]:
    """How far wrong architectures are from a record for the whole probe, by what is wrong; not for every save."""
    return {
        f"{variant.name} {variant.there}": worst_of(
            compare(golden, original.build(variant).ask(inputs).record())
        ).distance
        for variant in original.family.variants(original.architecture)
        if variant.architecture is not None
    }


def unreached_findings(built: Built, golden: Golden, found: Mapping[str, Output]) -> list[Finding]:
    """What of a model no output on record depends on, by component.

    Args:
        built: The model.
        golden: The record.
        found: What the model answers now.
    """
    lacking = sorted(found.keys() & built.family.pairs - golden.outputs.keys())
    if lacking:
        message = f"The record has no {', '.join(lacking)}: it was written before these were asked."
        remedy = "Save it again, or write its manifest anew: `manifest create CKPT --family LIBRARY --model NAME`."
        return [finding("G010", message, where=f"golden {golden.probe}", severity=Severity.WARNING, remedy=remedy)]
    if not golden.unreached:
        return []
    names = [name for name, _ in built.module.named_parameters(remove_duplicate=False)]
    roles = built.family.roles(built.architecture, names)
    silent = component_tensors(golden.unreached, names)
    counted = Counter(roles[name] for name in silent)
    wholes = Counter(roles[name] for name in names)
    parts = [f"{count} of {wholes[role]} of the {role_words(role)}" for role, count in counted.items()]
    message = (
        f"No golden output depends on {len(silent)} parameters, {' and '.join(parts)}: "
        f"{listed([each.rstrip('.') for each in golden.unreached])}."
    )
    return [finding("G010", printable(message, 600), where=printable(f"golden {golden.probe}"))]


def _asked_then(built: Built, golden: Golden, found: Mapping[str, Output]) -> Mapping[str, Output]:
    """The outputs now, without those that were not asked when an earlier version wrote a record."""
    return {name: output for name, output in found.items() if name in golden.outputs or name not in built.family.pairs}


def _reach(built: Built, golden: Golden, inputs: Inputs, *, exact: bool) -> Iterator[str]:
    """Where arithmetic is another, a gradient that vanishes in the one need not vanish in the other."""
    if golden.unreached is not None and exact:
        found = unreached(built, inputs)
        if found is not None and found != golden.unreached:
            yield "the record says of other parameters than the model's that no output depends on them"


def _outputs(what: str, recorded: Mapping[str, Output], found: Mapping[str, Output], allowed: float) -> Iterator[str]:
    if recorded.keys() != found.keys():
        yield f"the record has the {what} {', '.join(recorded)}, and the model gives {', '.join(found)}"
        return
    for name, then in recorded.items():
        now = found[name]
        share = _SAME if then.digest == now.digest else MULTIPLE * allowed + _SAME
        apart = max(abs(one - other) for one, other in zip(then.sketch, now.sketch, strict=True))
        if then.shape != now.shape or then.dtype != now.dtype:
            yield f"the {what} have {name!r} in another shape or type than the model gives"
        elif abs(then.norm - now.norm) > share * now.norm or apart > 8 * share * now.norm:
            yield f"the digest of {name!r} in the {what} is the model's, and its norm or sketch is not"


def _brief(golden: Golden, built: Built, first: ProbeOutputs, allowed: float) -> Iterator[str]:
    if not golden.brief:  # not on record before it was written
        return
    known = {name: output for name, output in first.record().items() if name in built.family.rows}
    found = _asked_then(built, golden, known)
    if golden.brief.keys() == found.keys():
        worst = worst_of(compare(golden, found, brief=True))
        if worst.distance > max(worst.tolerance, allowed):
            yield f"the model gives other {worst.output} for the first sample than are on record"
            return
    yield from _outputs("brief outputs", golden.brief, found, allowed)


def _layers(golden: Golden, first: ProbeOutputs, allowed: float, exact: bool) -> Iterator[str]:
    if not golden.layers:
        return
    times = MULTIPLE if exact else WIDEST  # where numbers are added up otherwise, layers move further than outputs
    known = [layer for layer in first.layers.values() if math.isfinite(layer.norm)]
    if [layer.module for layer in golden.layers] != [layer.module for layer in known]:
        yield f"the record has {len(golden.layers)} layers, and they are not the {len(known)} that the model has"
        return
    for then, now in zip(golden.layers, known, strict=True):
        bound = max(times * allowed, times * min(then.floor, BELIEVABLE[golden.precision]), _ROUNDING)
        if layer_distance(then, now) > bound or abs(then.norm - now.norm) > bound * now.norm:
            yield f"the layer {then.module!r} gives something else than is on record"


def _prepared(golden: Golden, answers: ProbeOutputs) -> Iterator[str]:
    if not golden.prepared:
        return
    now = prepared(answers.inputs)
    if [each.module for each in now] != [each.module for each in golden.prepared]:
        yield "the record has other kinds of inputs than the probe"
        return
    for then, found in zip(golden.prepared, now, strict=True):
        far = layer_distance(then, found) > _ROUNDING or abs(then.norm - found.norm) > _ROUNDING * found.norm
        if far or then.floor > 0:
            yield f"the probe's {then.module} are other ones than the record's, whose digest is theirs"


def _contrast(original: RecordedModel, golden: Golden, answers: ProbeOutputs, first: ProbeOutputs) -> Iterator[str]:
    """What a wrong architecture gives, of float32 alone."""
    variants = {
        f"{variant.name} {variant.there}": variant
        for variant in original.family.variants(original.architecture)
        if variant.architecture is not None
    }
    if golden.precision != "fp32":
        variants = {}
    if variants and golden.contrast.keys() == {variant.name for variant in variants.values()}:
        yield from _contrast_of_first_version(original, golden, answers)
        return
    if golden.contrast.keys() != variants.keys():
        known = ", ".join(variants) or "nothing"
        yield f"the record has the contrast of {', '.join(golden.contrast) or 'nothing'}, expected that of {known}"
        return
    for name, variant in variants.items():
        now, then = contrasted(first, original.build(variant)), golden.contrast[name]
        if abs(now - then) > 0.25 * now + MULTIPLE * FLOAT32_EPSILON:
            yield f"the contrast {name!r} is {then:.1e} on record and {now:.1e} here"


def _contrast_of_first_version(original: RecordedModel, golden: Golden, answers: ProbeOutputs) -> Iterator[str]:
    """It was of the whole probe, and did not say what the wrong architecture has."""
    now = contrast_here(original, golden, answers.inputs)
    for name, then in golden.contrast.items():
        if not any(abs(then - far) <= 0.25 * far for key, far in now.items() if key.startswith(name)):
            found = ", ".join(f"{far:.1e}" for far in now.values())
            yield f"the contrast {name!r} is {then:.1e} on record and {found} here"


def _floor(built: Built, golden: Golden, answers: ProbeOutputs, first: ProbeOutputs) -> Iterator[str]:
    """A floor that decides something, or is out of the ordinary, is measured again."""
    greatest, objects = _greatest(golden), golden.floor.get(OBJECTS, 0.0)
    ordinary = min([_ORDINARY, *(SHARE_OF_CONTRAST * value / MULTIPLE for value in golden.contrast.values() if value)])
    if golden.precision == "fp32" and greatest <= ordinary and objects <= WIDEST * RESOLUTION:
        return
    here = measure(built, answers, first, Thoroughness.QUICK)
    now = max((value for name, value in here.items() if name != OBJECTS), default=0.0)
    if greatest > WIDEST * max(now, FLOAT32_EPSILON):
        yield f"the floor is {greatest:.1e} on record, and arithmetic moves the model by {now:.1e} here"
    if objects > WIDEST * max(here.get(OBJECTS, 0.0), RESOLUTION):
        yield f"the floor of objects is {objects:.1e} on record, and {here.get(OBJECTS, 0.0):.1e} here"


def _greatest(golden: Golden) -> float:
    return max(
        (value for name, value in golden.floor.items() if name != OBJECTS and not name.startswith("cuda")), default=0.0
    )


def _readings(recorded: Sequence[Reading], found: Sequence[Reading], distance: float) -> Iterator[str]:
    if [reading.image for reading in recorded] != [reading.image for reading in found]:
        yield "the record reads other images than the probe has"
        return
    most = _WRITTEN + min(0.05, 100 * distance)
    for then, now in zip(recorded, found, strict=True):
        if then.prompts.keys() != now.prompts.keys():
            yield f"the reading of {then.image!r} is of other prompts or classes than the model gives"
        elif any(abs(value - now.prompts[name]) > most for name, value in then.prompts.items()):
            yield f"the reading of {then.image!r} has other probabilities than the model gives"
        elif len(then.objects) != len(now.objects) and distance < _ROUNDING:
            yield f"the reading of {then.image!r} has other objects than the model finds"

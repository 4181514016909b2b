"""Whether a record of golden outputs can have been written by a save: what its numbers say of each other.

Nothing is asked of a model here, and torch is not needed; `workflows.records` holds a record against the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from manifest.golden.detections import OBJECTS
from manifest.golden.sketch import PROJECTIONS
from manifest.schema.document import Golden, Layer, Output, Reading

BELIEVABLE = {"fp64": 1e-6, "fp32": 1e-2, "fp16": 0.5, "bf16": 1.0}
"""By precision, a floor that no sound model comes near: ten times what the most sensitive one that was tried has."""

_LAYER_PROJECTIONS = 32
_MEASURED = frozenset({"repeat", "threads", "batch"})
"""What every floor that was measured at all has."""
_MOST_THREADS = 4096
_LARGEST = 1e30
"""Beyond what float32 can hold of squares."""


def implausibilities(golden: Golden) -> Iterator[str]:
    """Sentences on numbers that no save writes, without their full stops."""
    if golden.precision not in BELIEVABLE:
        yield f"the precision of the record is {golden.precision!r}, expected among {', '.join(BELIEVABLE)}"
        return
    if golden.device != "cpu":
        yield f"the record is of the device {golden.device!r}, and golden outputs are asked on the cpu"
    if golden.threads > _MOST_THREADS:
        yield f"the record was made by {golden.threads:,} threads"
    yield from _floor(golden)
    for name, value in golden.contrast.items():
        if not 0 <= value <= _LARGEST:
            yield f"the contrast {name!r} is {value:.3g}"
    for kind, outputs in (("output", golden.outputs), ("brief output", golden.brief)):
        for name, output in outputs.items():
            yield from _output(f"{kind} {name!r}", output)
    for kind, layers in (("input", golden.prepared), ("layer", golden.layers)):
        if len({layer.module for layer in layers}) != len(layers):
            yield f"the record has an {kind} twice" if kind == "input" else "the record has a layer twice"
        for layer in layers:
            yield from _layer(f"{kind} {layer.module!r}", layer, BELIEVABLE[golden.precision])
    for reading in golden.reading:
        yield from _reading(reading)


def fits(norm: float, sketch: Sequence[float], least: float, most: float) -> bool:
    """Whether a norm is one that a sketch's numbers can be of: their root mean square estimates it."""
    size = math.hypot(*sketch) / math.sqrt(len(sketch))
    return least * norm <= size <= most * norm


def _floor(golden: Golden) -> Iterator[str]:
    if golden.floor and not golden.floor.keys() >= _MEASURED:
        yield f"the floor lacks {', '.join(sorted(_MEASURED - golden.floor.keys()))}, which every measured one has"
    most = BELIEVABLE[golden.precision]
    for name, value in golden.floor.items():
        if value < 0 or (value > most and name != OBJECTS and not name.startswith("cuda")) or value > _LARGEST:
            yield f"the floor {name!r} is {value:.3g}, and no model in {golden.precision} moves by more than {most:.0e}"


def _output(what: str, output: Output) -> Iterator[str]:
    if any(length < 0 for length in output.shape):
        yield f"the {what} has the shape {output.shape}"
    elif problem := _numbers(output.norm, output.sketch, PROJECTIONS, 0.4, 1.7):
        yield f"the {what} has {problem}"


def _layer(what: str, layer: Layer, most: float) -> Iterator[str]:
    if problem := _numbers(layer.norm, layer.sketch, _LAYER_PROJECTIONS, 0.05, 5.0):
        yield f"the {what} has {problem}"
    elif layer.floor > max(most, 0.5):
        yield f"the {what} has a floor of {layer.floor:.3g}"


def _numbers(norm: float, sketch: Sequence[float], count: int, least: float, most: float) -> str | None:
    """What is wrong with a norm and its sketch of so many numbers; `least` and `most` are those of `fits`."""
    if len(sketch) != count:
        return f"a sketch of {len(sketch)} numbers, expected {count}"
    if not _finite([norm, *sketch]):
        return "numbers that are too great"
    if not fits(norm, sketch, least, most):
        return f"a norm of {norm:.3g}, and its sketch is of another"
    return None


def _reading(reading: Reading) -> Iterator[str]:
    scores = [*reading.prompts.values(), *(found.score for found in reading.objects)]
    if not all(0 <= score <= 1 for score in scores):
        yield f"the reading of {reading.image!r} has a probability outside of 0 to 1"
    for found in reading.objects:
        left, top, right, bottom = found.box
        if not (_finite(found.box) and left <= right and top <= bottom):
            yield f"the reading of {reading.image!r} has a box of {found.box}"


def _finite(numbers: Iterable[float]) -> bool:
    return all(abs(number) <= _LARGEST for number in numbers)

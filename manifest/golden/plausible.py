"""Whether a record of golden outputs can have been written by a save: what its numbers say of each other.

Nothing is asked of a model here, and torch is not needed; `workflows.records` holds a record against the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from manifest.document import Golden, Layer, Output, Reading
from manifest.golden.compare import BELIEVABLE, OBJECTS
from manifest.golden.sketch import PROJECTIONS

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
    elif len(output.sketch) != PROJECTIONS:
        yield f"the {what} has a sketch of {len(output.sketch)} numbers, expected {PROJECTIONS}"
    elif not _sound(output.norm, output.sketch):
        yield f"the {what} has numbers that are too great"
    elif not fits(output.norm, output.sketch, 0.4, 1.7):
        yield f"the {what} has a norm of {output.norm:.3g}, and its sketch is of another"


def _layer(what: str, layer: Layer, most: float) -> Iterator[str]:
    if len(layer.sketch) != _LAYER_PROJECTIONS:
        yield f"the {what} has a sketch of {len(layer.sketch)} numbers, expected {_LAYER_PROJECTIONS}"
    elif not _sound(layer.norm, layer.sketch):
        yield f"the {what} has numbers that are too great"
    elif not fits(layer.norm, layer.sketch, 0.05, 5.0):
        yield f"the {what} has a norm of {layer.norm:.3g}, and its sketch is of another"
    elif layer.floor > max(most, 0.5):
        yield f"the {what} has a floor of {layer.floor:.3g}"


def _reading(reading: Reading) -> Iterator[str]:
    scores = [*reading.prompts.values(), *(found.score for found in reading.objects)]
    if not all(0 <= score <= 1 for score in scores):
        yield f"the reading of {reading.image!r} has a probability outside of 0 to 1"
    for found in reading.objects:
        left, top, right, bottom = found.box
        if not (_finite(found.box) and left <= right and top <= bottom):
            yield f"the reading of {reading.image!r} has a box of {found.box}"


def _sound(norm: float, sketch: Sequence[float]) -> bool:
    return _finite([norm, *sketch])


def _finite(numbers: Iterable[float]) -> bool:
    return all(abs(number) <= _LARGEST for number in numbers)

"""How far tensors moved where a manifest alone is at hand of one side or of both: estimated from sketches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from manifest.checkpoint import Checkpoint
from manifest.kinship.sketch import Sketch, digest_and_sketch, relative_variance
from manifest.kinship.stored import read
from manifest.schema.document import Weights
from manifest.weights.distance import Moved


def estimated(then: Checkpoint | Weights, now: Checkpoint | Weights, names: Sequence[str]) -> dict[str, Moved]:
    """How far each of some tensors moved, with the error of that; those without sketches are left out.

    Args:
        then: What they were in: the open file, or as a manifest describes it.
        now: What they are in.
        names: Of tensors.

    Raises:
        DocumentError: Sketches of a manifest are not those of its tensors.
    """
    before, after = _sketches(then), _sketches(now)
    found = {}
    for name in names:
        was, became = before(name), after(name)
        if was is not None and became is not None and was[1] == became[1]:
            found[name] = _moved(was[0], became[0], was[1])
    return found


def _moved(was: Sketch, became: Sketch, shape: tuple[int, ...]) -> Moved:
    difference = became.numbers - was.numbers
    squares = float(difference @ difference)
    return Moved(squares, was.norm**2, relative_variance(math.prod(shape)) * squares**2)


def _sketches(of: Checkpoint | Weights) -> Callable[[str], tuple[Sketch, tuple[int, ...]] | None]:
    """Finds the sketch and the shape of a tensor by its name."""
    if isinstance(of, Checkpoint):
        return lambda name: _read(of, name)
    found = read(of, "the manifest") or {}
    shapes = {each.name: tuple(each.shape) for each in of.tensors}
    return lambda name: (found[name], shapes[name]) if name in found else None


def _read(stored: Checkpoint, name: str) -> tuple[Sketch, tuple[int, ...]] | None:
    tensor = stored.tensors.get(name)
    sketch = None if tensor is None else digest_and_sketch(stored, tensor)[1]
    return None if sketch is None or tensor is None else (sketch, tensor.shape)

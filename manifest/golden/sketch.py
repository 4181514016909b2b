"""Sketches: 64 random ±1 projections of a tensor, by which two outputs are compared without storing either.

By the lemma of Johnson and Lindenstrauss the mean square of the projections of a difference estimates its squared
length, whatever the number of values (Achlioptas 2003 for ±1 signs). With 64 projections the relative standard error
of the estimated length is 1/√(2·64) ≈ 9%. The signs come from BLAKE3's output stream, keyed by the probe and the name
of the output, so that anyone can recompute them and no library's random generator is involved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from manifest.lazily import lazily

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:
    np = lazily("numpy")

PROJECTIONS = 64
STANDARD_ERROR = 1 / math.sqrt(2 * PROJECTIONS)
"""Relative standard error of an estimated distance."""

_DIGITS = 10  # significant: 10⁻¹⁰ of the norm is far below float32's own resolution
_BLOCK = 1 << 16  # values projected at once; 64 signs each make 4 MiB as int8


def sketch(values: npt.NDArray[np.floating], *, probe: str, output: str) -> list[float]:
    """Project all values of an output.

    Args:
        values: The output, of any shape.
        probe: Name of the probe.
        output: Name of the output.

    Returns:
        64 numbers, each a ±1 combination of all values in float64.
    """
    flat = np.ascontiguousarray(values).reshape(-1).astype(np.float64)
    signs = blake3(f"manifest/sketch/v1\n{probe}\n{output}\n".encode())
    total = np.zeros(PROJECTIONS)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        stream = signs.digest(length=8 * part.size, seek=8 * start)
        bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(part.size, PROJECTIONS)
        total += part @ (bits.astype(np.float64) * 2 - 1)
    return [float(f"{value:.{_DIGITS}g}") for value in total]


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Estimated Euclidean distance of two outputs from their sketches, within about 9% (one standard error).

    Infinite where one of the sketches is none, or is of another length.
    """
    if not one or len(one) != len(other):
        return math.inf
    return math.dist(one, other) / math.sqrt(len(one))

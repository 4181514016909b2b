"""Kinship sketches as manifests hold them: written of a checkpoint's tensors, and read from a document that anybody
may have made.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping

import numpy as np

from manifest.errors import DocumentError
from manifest.kinship.sketch import MOST_DIMENSIONS, MOST_VALUES, Sketch, numbers_of
from manifest.schema.document import Kinship, Weights

VERSION = 1
_MOST_NUMBERS = 1 << 20
"""Numbers of all sketches of a manifest: 4 MiB. The models of the libraries have a tenth of that at most."""
_DIGITS = 9
"""Significant digits of a norm, which tell any two numbers of type float32 apart."""


def written(sketches: Mapping[str, Sketch | None]) -> Kinship | None:
    """Sketches as a manifest holds them; None where there are none, or too many for a manifest.

    Args:
        sketches: Of every tensor that is no alias, in the order of the manifest; None for those that have none.
    """
    found = [each for each in sketches.values() if each is not None]
    if not found or sum(each.numbers.size for each in found) > _MOST_NUMBERS:
        return None
    numbers = np.concatenate([each.numbers for each in found]).astype("<f4")
    return Kinship(
        version=VERSION,
        numbers=base64.b64encode(numbers.tobytes()).decode(),
        norms=[float(f"{each.norm:.{_DIGITS}g}") for each in found],
        zeros=[each.zeros for each in found],
        without=[name for name, each in sketches.items() if each is None],
    )


def read(weights: Weights, source: str) -> dict[str, Sketch] | None:
    """The sketches of a manifest by the names of their tensors; None where it has none of this version.

    Args:
        weights: As recorded.
        source: What to call the manifest in messages.

    Raises:
        DocumentError: They are not those of the tensors that the manifest lists.
    """
    kinship = weights.kinship
    if kinship is None or kinship.version != VERSION:
        return None
    if any(len(each.shape) > MOST_DIMENSIONS or max(each.shape, default=0) >= MOST_VALUES for each in weights.tensors):
        raise _not_valid(source)
    without = set(kinship.without)
    sizes = {
        each.name: math.prod(each.shape) for each in weights.tensors if each.alias is None and each.name not in without
    }
    numbers = _decoded(kinship.numbers, source)
    ends = np.cumsum([numbers_of(size) for size in sizes.values()], dtype=np.int64)
    counts = {len(sizes), len(kinship.norms), len(kinship.zeros)}
    if len(counts) != 1 or numbers.size != (ends[-1] if sizes else 0) or not np.isfinite(numbers).all():
        raise _not_valid(source)
    parts = np.split(numbers, ends[:-1]) if sizes else []
    return _checked(zip(sizes.items(), parts, kinship.norms, kinship.zeros, strict=True), source)


def _decoded(text: str, source: str) -> np.ndarray:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except (binascii.Error, ValueError):
        raise _not_valid(source) from None


def _checked(found: Iterable[tuple[tuple[str, int], np.ndarray, float, int]], source: str) -> dict[str, Sketch]:
    """Sketches that are possible: no more zeros than values, and zeros alone where the norm is zero."""
    sketches = {}
    for (name, size), numbers, norm, zeros in found:
        sketches[name] = Sketch(numbers, norm, zeros)
        if not sketches[name].is_possible(size):
            raise _not_valid(source)
    return sketches


def _not_valid(source: str) -> DocumentError:
    return DocumentError(
        f"The sketches of {source} (weights.kinship) are not those of the tensors that it lists; "
        "write it anew with `manifest create`."
    )

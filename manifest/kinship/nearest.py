"""The nearest relatives of a checkpoint among many manifests: one matrix product finds the alike, and each of those is
compared with it.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from manifest import progress
from manifest.errors import InputError, ManifestError
from manifest.escaping import printable
from manifest.kinship.answers import KIN, PairAnswer
from manifest.kinship.distances import is_telling
from manifest.kinship.pairs import answer, paired
from manifest.kinship.sketch import Numbers, numbers_of
from manifest.kinship.subjects import Subject, Tensor, read_weights
from manifest.storage.sidecars import MANIFEST_INSIDE
from manifest.temporaries import is_temporary

_MOST_MANIFESTS = 200_000
_AT_ONCE = 256
"""Manifests whose sketches are in memory at once."""
_MOST_COMPARED = 20
"""Of the alike, those that are compared."""


@dataclass(frozen=True)
class Relatives:
    """The nearest relatives of a checkpoint.

    Attributes:
        asked: The checkpoint.
        found: The nearest first; those that are not related are left out.
        searched: How many manifests have sketches.
        without: How many have none.
        unread: Paths of those that are not valid, each with the reason.
    """

    asked: str
    found: tuple[PairAnswer, ...]
    searched: int
    without: int
    unread: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 where there is a relative, 1 where there is none, 2 where no manifest could be searched."""
        if self.found:
            return 0
        return 1 if self.searched else 2


def nearest(asked: Subject, folder: Path) -> Relatives:
    """The relatives of a checkpoint among the manifests in a folder and below it.

    Raises:
        InputError: There is no such folder, or it holds too many manifests.
    """
    if not folder.is_dir():
        raise InputError(f"{printable(str(folder))} is no folder, expected one with manifests in it; name another.")
    own = [each for each in asked.tensors.values() if is_telling(each)]
    target = _row(own, asked)
    best: list[tuple[float, Path]] = []
    unread: list[tuple[str, str]] = []
    searched = without = 0
    paths = list(islice(manifests_under(folder), _MOST_MANIFESTS + 1))
    if len(paths) > _MOST_MANIFESTS:
        raise InputError(f"There are more than {_MOST_MANIFESTS:,} manifests in {printable(str(folder))}; name less.")
    progress.begin(f"{len(paths):,} manifests")
    for start in range(0, len(paths), _AT_ONCE):
        rows, kept = [], []
        for path in paths[start : start + _AT_ONCE]:
            try:
                found = read_weights(path)
            except ManifestError as error:
                unread.append((str(path), str(error)))
                continue
            if found is None:
                without += 1
                continue
            rows.append(_row(own, found))
            kept.append(path)
        searched += len(kept)
        if rows:
            alike = np.stack(rows) @ target / max(len(own), 1)
            best = sorted([*best, *zip(alike.tolist(), kept, strict=True)], reverse=True)[:_MOST_COMPARED]
    answers = [_answer(asked, path, folder) for _, path in best]
    related = [each for each in answers if each.relation in KIN]
    related.sort(key=lambda each: (each.distance is None, each.distance))
    return Relatives(asked.name, tuple(related), searched, without, tuple(unread))


def manifests_under(folder: Path) -> Iterator[Path]:
    """Every manifest in a folder and below it, in order; links to folders are not followed."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_temporary(name))
        yield from (Path(place) / name for name in sorted(names) if name.endswith(MANIFEST_INSIDE))


def _row(own: Sequence[Tensor], found: Subject) -> Numbers:
    """What sketches a manifest has of the tensors that are asked about, each of length one; zeros for the others."""
    parts = []
    for mine in own:
        tensor = found.tensors.get(mine.name)
        if tensor is not None and tensor.sketch is not None and tensor.shape == mine.shape:
            numbers = tensor.sketch.numbers
            parts.append(numbers / math.sqrt(max(float(numbers @ numbers), sys.float_info.min)))
        else:
            parts.append(np.zeros(numbers_of(math.prod(mine.shape))))
    return np.concatenate(parts) if parts else np.zeros(0)


def _answer(asked: Subject, path: Path, folder: Path) -> PairAnswer:
    other = read_weights(path, name=str(path.relative_to(folder)))
    assert other is not None
    return answer(paired(asked, other))

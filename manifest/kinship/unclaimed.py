"""Relatives of checkpoints that no parent on record explains, by the sketches in their manifests."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.kinship.answers import PairAnswer
from manifest.kinship.layouts import Entry
from manifest.kinship.nearest import nearest_of_each
from manifest.kinship.subjects import Subject, of_manifest
from manifest.schema.document import Manifest
from manifest.schema.lineage import Descent, Unclaimed


def with_kin(
    descents: Sequence[Descent], manifests: Mapping[str, Manifest], place: Path
) -> tuple[tuple[Descent, ...], tuple[tuple[str, str], ...]]:
    """Checkpoints with their nearest relatives of which no manifest says so.

    Args:
        descents: The checkpoints, and none before those that started from it.
        manifests: Theirs, by their paths; those without sketches have no relatives.
        place: Where relatives are looked for: a folder of manifests, or an index.

    Returns:
        The same with them; and paths of what could not be read there, each with the reason.

    Raises:
        InputError: There is no such place, or it holds too many manifests.
        DocumentError: It is a file and no index.
    """
    asked = {each.generation.path: _subject(manifests[each.generation.path]) for each in descents}
    subjects = {path: each for path, each in asked.items() if each is not None}
    lines = _lines(descents)
    paths = list(subjects)

    def is_claimed(number: int, entry: Entry) -> bool:
        line = lines[paths[number]]
        return entry.weights in line or not line.isdisjoint(entry.parents)

    found = dict(zip(paths, nearest_of_each(list(subjects.values()), place, is_claimed), strict=True))
    kin = {path: tuple(map(_unclaimed, each.found)) for path, each in found.items()}
    unread = next(iter(found.values())).unread if found else ()
    return tuple(replace(each, kin=kin.get(each.generation.path, ())) for each in descents), unread


def _unclaimed(pair: PairAnswer) -> Unclaimed:
    known = pair.distance is not None and math.isfinite(pair.distance)
    return Unclaimed(pair.other, pair.relation, pair.distance if known else None, pair.error if known else None)


def _subject(manifest: Manifest) -> Subject | None:
    try:
        return of_manifest(manifest, printable(manifest.checkpoint.files[0].path))
    except ManifestError:  # whoever compares sketches is told of it
        return None


def _lines(descents: Sequence[Descent]) -> dict[str, frozenset[str]]:
    """Weights digests of each checkpoint and of all that it started from, by its path."""
    lines: dict[str, frozenset[str]] = {}
    for descent in reversed(descents):
        own = {*descent.generation.weights}
        for ancestor in descent.ancestors:
            own |= {ancestor.parent.weights} if ancestor.parent.weights is not None else set()
            own |= lines.get(ancestor.path or "", frozenset())
        lines[descent.generation.path] = frozenset(own)
    return lines

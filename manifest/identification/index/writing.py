"""Writing the index: what libraries' models were found to have, packed small and in the same bytes every time."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from manifest.identification.index import fingerprint, key_of, shape_key
from manifest.identification.index.layout import (
    ENTRIES,
    HEADER,
    PATTERNS,
    PRETRAINED,
    SHAPES,
    TEMPLATES,
    to_little_endian,
)
from manifest.schema.name_ranges import fold, without_numbers
from manifest.weights.shape_diff import Shape

_SHARD = 1 << 16
"""Characters that are compressed together: more are smaller, fewer are sooner read."""


@dataclass(frozen=True)
class Model:
    """One model of a library as it was found.

    Attributes:
        library: Its name.
        name: Of the model, in its registry.
        settings: What its config says beyond names and shapes.
        shapes: Shape by name.
        roles: Component role by name.
    """

    library: str
    name: str
    settings: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    roles: Mapping[str, str]


def pack(
    models: Iterable[Model],
    versions: Mapping[str, str],
    left_out: Mapping[str, Sequence[str]],
    templates: Any,
    pretrained: Mapping[str, Any],
) -> bytes:
    """The index as a zip archive.

    Args:
        models: All there are.
        versions: Of the libraries.
        left_out: Names by library of the models that could not be built.
        templates: As `manifest.identification.index.templates` reads them.
        pretrained: By library, as `manifest.identification.pretrained` reads it.
    """
    entries: dict[tuple[Any, ...], int] = {}
    shapes: list[Mapping[str, Shape]] = []
    lines: list[str] = []
    architectures: list[tuple[str, str, Mapping[str, Any], int]] = []
    for model in sorted(models, key=lambda model: (model.library, model.name)):
        identity = tuple(sorted((name, shape, model.roles[name]) for name, shape in model.shapes.items()))
        if identity not in entries:
            entries[identity] = len(lines)
            lines.append(entry_line(model.shapes, model.roles))
            shapes.append(model.shapes)
        architectures.append((model.library, model.name, model.settings, entries[identity]))
    prints = [fingerprint(each) for each in shapes]
    shards = _shards(lines)
    starts = [sum(map(len, shards[:place])) for place in range(len(shards))]
    header = {
        "versions": dict(versions),
        "left_out": dict(left_out),
        "architectures": architectures,
        "fingerprints": prints,
        "sizes": [len(each) for each in shapes],
        "shards": starts,
    }
    members = {
        HEADER: _json(header),
        PATTERNS: _postings([Counter(key_of(without_numbers(name)) for name in each) for each in shapes]),
        SHAPES: _postings([Counter(key_of(shape_key(shape)) for shape in each.values()) for each in shapes]),
        TEMPLATES: _json(templates),
        **{PRETRAINED.format(library): _json(rows) for library, rows in pretrained.items()},
        **{ENTRIES.format(place): "\n".join(shard).encode() for place, shard in enumerate(shards)},
    }
    return _zipped(members)


def entry_line(shapes: Mapping[str, Shape], roles: Mapping[str, str]) -> str:
    """Names, shapes and roles of a model's tensors on a line, in the order in which the model has them."""
    alike: dict[tuple[str, Shape, str], list[str]] = {}
    for name, shape in shapes.items():
        alike.setdefault((roles[name], shape, without_numbers(name)), []).append(name)
    by_role: dict[str, list[tuple[str, Shape]]] = {}
    for (role, shape, _), names in alike.items():
        by_role.setdefault(role, []).extend((folded, shape) for folded in fold(names))
    return _json(by_role).decode()


def _shards(lines: Sequence[str]) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    for line in lines:
        if shards[-1] and sum(map(len, shards[-1])) + len(line) > _SHARD:
            shards.append([])
        shards[-1].append(line)
    return shards


def _postings(counts: Sequence[Mapping[int, int]]) -> bytes:
    where: dict[int, list[tuple[int, int]]] = {}
    for number, counted in enumerate(counts):
        for key, count in counted.items():
            where.setdefault(key, []).append((number, count))
    keys = sorted(where)
    runs = [run for key in keys for run in where[key]]
    return b"".join(
        [
            to_little_endian("I", [len(keys), len(runs)]),
            to_little_endian("I", keys),
            to_little_endian("H", [len(where[key]) for key in keys]),
            to_little_endian("H", [number for number, _ in runs]),
            to_little_endian("H", [count for _, count in runs]),
        ]
    )


def _zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip archive that says nothing of when and where it was written."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_LZMA) as archive:
        for name, member in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_LZMA
            info.create_system = 3
            archive.writestr(info, member)
    return content.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

"""Models of transformers, which are of any size: names over a number of layers, sizes that are read off the shapes.

A template says for each row of names which size of the config every dimension is: `[3, "hidden_size", 0]` is three
times the width, `[1, "positions", 1]` one more than there are patches. Heads and activations cannot be read off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isqrt
from typing import Any

from manifest.identification.index import document
from manifest.identification.index.layout import TEMPLATES
from manifest.weights.shape_diff import Shape

POSITIONS = "positions"
"""Patches of an image, under which name the square of its side over the patch's is meant."""
QUERIES, KEYS = "query_size", "key_value_size"
"""Width of what all heads ask, and of what they share: products of numbers of heads that no shape shows."""
_FEWEST = 0.5
"""Of a template's rows, to be in a file for it to be looked at."""


@dataclass(frozen=True)
class Size:
    """A dimension: `factor` times a size of the config, and some more."""

    factor: int
    path: str
    offset: int

    def read(self, side: int) -> int | None:
        """The size when the dimension is this long, None when it cannot be."""
        size, rest = divmod(side - self.offset, self.factor)
        return size if not rest and size > 0 else None


@dataclass(frozen=True)
class Row:
    """Tensors that are called alike.

    Attributes:
        pattern: Their name, with a star for the number of the layer.
        shape: Dimensions.
        role: Component role.
        layers: Which size of the config the star runs to, None where there is none.
        tied: Name of the tensor that they are once more, under which alone files often have it; None of others.
    """

    pattern: str
    shape: tuple[int | Size, ...]
    role: str
    layers: str | None
    tied: str | None


@dataclass(frozen=True)
class Template:
    """A class of transformers.

    Attributes:
        name: Of the class.
        in_memory: Whether these are the names of the module, where `save_pretrained` writes others.
        by_default: Whether its config ties what can be tied unless it says otherwise.
        rows: Its tensors.
    """

    name: str
    in_memory: bool
    by_default: bool
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Filled:
    """A template with the sizes of a file.

    Attributes:
        template: Of which class.
        settings: Sizes, as its config has them.
        shapes: Expected shape by name.
        roles: Role by name; also of names whose shape depends on a size that no tensor shows.
        tied: Names that may be missing → name of the same tensor.
    """

    template: Template
    settings: Mapping[str, Any]
    shapes: Mapping[str, Shape]
    roles: Mapping[str, str]
    tied: Mapping[str, str]


@cache
def templates() -> tuple[Template, ...]:
    """All of them."""
    return tuple(
        Template(
            each["class"],
            each["in_memory"],
            each["by_default"],
            tuple(
                Row(pattern, tuple(Size(*d) if isinstance(d, list) else d for d in shape), role, layers, tied)
                for pattern, shape, role, layers, tied in each["rows"]
            ),
        )
        for each in document(TEMPLATES)
    )


def covered(alike: Mapping[str, Sequence[str]]) -> int:
    """How many of some names are of a template, of the one that has most; the names are by pattern."""
    return max(sum(len(alike.get(row.pattern, ())) for row in template.rows) for template in templates())


def filled(alike: Mapping[str, Sequence[str]], shapes: Mapping[str, Shape]) -> list[Filled]:
    """Templates that many of some names are of, with their sizes.

    Args:
        alike: The names by pattern.
        shapes: Shape by name.
    """
    return [
        _fill(template, alike, shapes)
        for template in templates()
        if sum(row.pattern in alike for row in template.rows) >= _FEWEST * len(template.rows)
    ]


def _fill(template: Template, alike: Mapping[str, Sequence[str]], shapes: Mapping[str, Shape]) -> Filled:
    sizes: dict[str, int] = {}
    for row in template.rows:
        names = alike.get(row.pattern, ())
        if row.layers is not None:
            # No more layers than there are tensors, whatever numbers are in their names.
            sizes[row.layers] = max(sizes.get(row.layers, 0), len(names))
        if names and len(found := shapes[names[0]]) == len(row.shape):
            for side, dimension in zip(found, row.shape, strict=True):
                if isinstance(dimension, Size) and (size := dimension.read(side)) is not None:
                    sizes.setdefault(dimension.path, size)
    expected: dict[str, Shape] = {}
    roles: dict[str, str] = {}
    tied: dict[str, str] = {}
    for row in template.rows:
        sides = [d if isinstance(d, int) else _side(d, sizes) for d in row.shape]
        known = tuple(side for side in sides if side is not None)
        layers = 1 if row.layers is None else sizes[row.layers]
        for number in range(layers):
            name = row.pattern if row.layers is None else row.pattern.replace("*", str(number))
            roles[name] = row.role
            if row.tied is not None:
                tied[name] = row.tied
            if len(known) == len(sides):
                expected[name] = known
    return Filled(template, _settings(sizes), expected, roles, tied)


def _side(dimension: Size, sizes: Mapping[str, int]) -> int | None:
    size = sizes.get(dimension.path)
    return None if size is None else dimension.factor * size + dimension.offset


def _settings(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Sizes as the config has them, one within another; the side of an image follows from its patches."""
    settings: dict[str, Any] = {}
    for path, size in sizes.items():
        if path in (QUERIES, KEYS):
            continue
        *parts, last = path.split(".")
        place = settings
        for part in parts:
            place = place.setdefault(part, {})
        if last == POSITIONS:
            patch = sizes.get(".".join((*parts, "patch_size")))
            if patch is None or isqrt(size) ** 2 != size:
                continue
            last, size = "image_size", isqrt(size) * patch
        place[last] = size
    return settings

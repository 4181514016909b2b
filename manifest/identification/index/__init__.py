"""Which architectures there are: names, shapes and roles of the tensors of open_clip, timm and torchvision.

The facts are in `index.zip` beside this file, which `make index` writes from the libraries; none of them is imported
here. What has the same names and shapes shares one entry. An exact match costs one look-up; what is near is found by
counting patterns of names and shapes, and only the best entries are read.
"""

from __future__ import annotations

import heapq
import json
import zipfile
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from hashlib import blake2b
from importlib.resources import files
from io import BytesIO
from typing import Any, NamedTuple
from zlib import crc32

from manifest.identification.index.layout import ENTRIES, HEADER, PATTERNS, SHAPES, from_little_endian
from manifest.schema.name_ranges import unfold_name
from manifest.weights.shape_diff import Shape, is_optional

_MOST_TENSORS = 1 << 16
"""Of an entry: what a range in it may stand for."""


@dataclass(frozen=True)
class Known:
    """An architecture of the index.

    Attributes:
        library: `open_clip`, `timm` or `torchvision`.
        name: In the library's registry.
        settings: What its config says beyond names and shapes, as `quick_gelu` and `image_size`.
        entry: Number of the entry that has its tensors.
    """

    library: str
    name: str
    settings: Mapping[str, Any]
    entry: int


@dataclass(frozen=True)
class Entry:
    """Tensors of one or several architectures.

    Attributes:
        shapes: Shape by name.
        roles: Component role by name, the same names.
        optional: Names of those without which weights are whole.
    """

    shapes: Mapping[str, Shape]
    roles: Mapping[str, str]
    optional: frozenset[str]


class Near(NamedTuple):
    """An entry that some tensors may be of.

    Attributes:
        entry: Its number.
        covered: Share of the tensors that it has too, at most.
        likeness: What both have, of what either has, at most.
        likeness_by_name: The same whatever the shapes.
    """

    entry: int
    covered: float
    likeness: float
    likeness_by_name: float


def fingerprint(shapes: Mapping[str, Shape]) -> str:
    """What is the same for the same names and shapes, in whatever order; optional tensors do not count."""
    lines = sorted(f"{name}\0{shape_key(shape)}\n" for name, shape in shapes.items() if not is_optional(name))
    return blake2b("".join(lines).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def shape_key(shape: Shape) -> str:
    """A shape as text; in hexadecimal, since Python refuses to write very long numbers otherwise."""
    return ",".join(f"{side:x}" for side in shape)


def key_of(text: str) -> int:
    """The 32 bits by which a pattern or a shape is looked up: two may share them, which costs a little accuracy."""
    return crc32(text.encode("utf-8", "surrogatepass"))


def versions() -> dict[str, str]:
    """Versions of the libraries that the index was written from."""
    return dict(_index().header["versions"])


def left_out() -> dict[str, list[str]]:
    """Models by library that the index lacks, since a hub would have had to be asked about them."""
    return dict(_index().header["left_out"])


def most_tensors() -> int:
    """Tensors of the largest architecture."""
    return int(max(_index().header["sizes"]))


def architectures() -> tuple[Known, ...]:
    """All of them, by library and name."""
    return tuple(Known(*row) for row in _index().header["architectures"])


def exact(shapes: Mapping[str, Shape]) -> list[Known]:
    """Architectures whose tensors have these names and shapes, by their fingerprint alone."""
    entry = _index().by_fingerprint.get(fingerprint(shapes))
    return [] if entry is None else list(of_entry(entry))


def of_entry(entry: int) -> tuple[Known, ...]:
    """Architectures that share an entry."""
    return tuple(Known(*row) for row in _index().by_entry[entry])


def named(library: str, name: str) -> Known | None:
    """An architecture by its name, None when there is none."""
    row = _index().by_name.get((library, name))
    return None if row is None else Known(*row)


def shaped(shapes: Iterable[Shape]) -> dict[int, int]:
    """How many of some shapes each entry has, by its number."""
    counts = Counter(shapes)
    return _index().shapes.shared((key_of(shape_key(shape)), count) for shape, count in counts.items())


def nearest(patterns: Mapping[str, int], same: Mapping[int, int], limit: int) -> list[Near]:
    """Entries that share most with some tensors, told without reading any.

    What an entry and the tensors have in common is estimated: no more than they have of name patterns in common, and
    no more than of shapes. The likeliest are those that most of the tensors are of, and those that have least besides.

    Args:
        patterns: How many names of the tensors are alike but for their numbers.
        same: What `shaped` says of their shapes.
        limit: How many of either kind.
    """
    index = _index()
    total = sum(patterns.values())
    alike = index.patterns.shared((key_of(pattern), count) for pattern, count in patterns.items())
    sizes = index.header["sizes"]

    near = []
    for number, named in alike.items():
        both = min(named, same.get(number, 0))
        together = sizes[number] + total
        near.append(Near(number, both / total, both / (together - both), named / (together - named)))
    covering = heapq.nlargest(limit, near, key=lambda each: (each.covered, each.likeness, -each.entry))
    like = heapq.nlargest(limit, near, key=lambda each: (each.likeness, each.likeness_by_name, -each.entry))
    return list(dict.fromkeys((*covering, *like)))


@lru_cache(maxsize=256)
def entry(number: int) -> Entry:
    """The tensors of an entry."""
    starts = _index().header["shards"]
    shard = bisect_left(starts, number + 1) - 1
    by_role: dict[str, list[tuple[str, list[int]]]] = json.loads(_lines(shard)[number - starts[shard]])
    shapes: dict[str, Shape] = {}
    roles: dict[str, str] = {}
    for role, rows in by_role.items():
        for folded, shape in rows:
            for name in unfold_name(folded, _MOST_TENSORS) or ():
                shapes[name], roles[name] = tuple(shape), role
    return Entry(shapes, roles, frozenset(filter(is_optional, shapes)))


def document(name: str) -> Any:
    """One of the index's documents that others know how to read."""
    return json.loads(_index().archive.read(name))


class Postings:
    """In which entries something occurs, and how often: two arrays beside one another, a run of both for each key."""

    def __init__(self, content: bytes) -> None:
        keys, runs = from_little_endian("I", content[:8])
        ends = (8 + 4 * keys, 8 + 6 * keys, 8 + 6 * keys + 2 * runs)
        self._keys = from_little_endian("I", content[8 : ends[0]])
        lengths = from_little_endian("H", content[ends[0] : ends[1]])
        self._entries = from_little_endian("H", content[ends[1] : ends[2]])
        self._counts = from_little_endian("H", content[ends[2] :])
        self._starts = array("I", [0])
        total = 0
        for length in lengths:
            total += length
            self._starts.append(total)

    def shared(self, counts: Iterable[tuple[int, int]]) -> dict[int, int]:
        """How many of some keys each entry has too, when each occurs so many times."""
        found: dict[int, int] = {}
        for key, count in counts:
            place = bisect_left(self._keys, key)
            if place == len(self._keys) or self._keys[place] != key:
                continue
            run = slice(self._starts[place], self._starts[place + 1])
            for number, most in zip(self._entries[run], self._counts[run], strict=True):
                found[number] = found.get(number, 0) + (count if count < most else most)
        return found


class _Index:
    def __init__(self, content: bytes) -> None:
        self.archive = zipfile.ZipFile(BytesIO(content))
        self.header: dict[str, Any] = json.loads(self.archive.read(HEADER))
        self.by_fingerprint = {digits: number for number, digits in enumerate(self.header["fingerprints"])}

    @cached_property
    def by_entry(self) -> dict[int, list[list[Any]]]:
        groups: dict[int, list[list[Any]]] = {}
        for row in self.header["architectures"]:
            groups.setdefault(row[-1], []).append(row)
        return groups

    @cached_property
    def by_name(self) -> dict[tuple[str, str], list[Any]]:
        return {(row[0], row[1]): row for row in self.header["architectures"]}

    @cached_property
    def patterns(self) -> Postings:
        return Postings(self.archive.read(PATTERNS))

    @cached_property
    def shapes(self) -> Postings:
        return Postings(self.archive.read(SHAPES))


@cache
def _index() -> _Index:
    return _Index(files(__name__).joinpath("index.zip").read_bytes())


@lru_cache(maxsize=8)
def _lines(shard: int) -> list[bytes]:
    return _index().archive.read(ENTRIES.format(shard)).splitlines()

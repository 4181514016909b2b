"""How `index.zip` is laid out: the names of its members, and its arrays of numbers, which are little-endian."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable

HEADER = "index.json"
"""Versions, architectures, and fingerprint and size of every entry."""
ENTRIES = "entries/{:03}.jsonl"
"""Names, shapes and roles, an entry a line."""
PATTERNS = "patterns.bin"
"""Which entries have names of a pattern, and how many."""
SHAPES = "shapes.bin"
"""Which entries have tensors of a shape, and how many."""
TEMPLATES = "templates.json"
PRETRAINED = "pretrained/{}.json"


def to_little_endian(kind: str, numbers: Iterable[int]) -> bytes:
    """Numbers as bytes; the kind is that of `array`."""
    return _swapped(array(kind, numbers)).tobytes()


def from_little_endian(kind: str, content: bytes) -> array[int]:
    """The numbers that some bytes are."""
    numbers: array[int] = array(kind)
    numbers.frombytes(content)
    return _swapped(numbers)


def _swapped(numbers: array[int]) -> array[int]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

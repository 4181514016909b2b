"""Files of weights that take no room on the disk, larger than any machine reads in a moment."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

_SIDE = 1 << 14


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sparse_file(path: Path, size: int, side: int = _SIDE) -> Path:
    """A safetensors file of zeros, in matrices of so many rows; the test is skipped where there can be none."""
    each = 4 * side * side
    return sparse_tensors(path, {f"blocks.{n}.weight": (side, side) for n in range(size // each)}, "F32")


def sparse_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], kind: str = "F16") -> Path:
    """A safetensors file of tensors of zeros; the test is skipped where there can be none of its size."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + {"F16": 2, "F32": 4}[kind] * math.prod(shape)
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + end)
        except OSError as error:
            pytest.skip(f"no file of this size here: {error}")
    return path

"""Files of weights that take no room on the disk, larger than any machine reads in a moment."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

_SIDE = 1 << 14


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def sparse_file(path: Path, size: int, side: int = _SIDE) -> Path:
    """A safetensors file of zeros, in matrices of so many rows; the test is skipped where there can be none."""
    each = 4 * side * side
    entries = {
        f"blocks.{n}.weight": {"dtype": "F32", "shape": [side, side], "data_offsets": [n * each, (n + 1) * each]}
        for n in range(size // each)
    }
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        try:
            file.truncate(8 + len(header) + len(entries) * each)
        except OSError as error:
            pytest.skip(f"no file of this size here: {error}")
    return path

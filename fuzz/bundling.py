"""Several files as one string of bytes, which is what a fuzzer passes around.

The first is the one that is opened. Bytes that are no bundle are a single file of the name that is asked for.
"""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = b"bundle\n"
_ENTRY = struct.Struct("<HI")
_MOST_NAME = 60


def pack(files: dict[str, bytes]) -> bytes:
    """The files, in their order."""
    parts = [_MAGIC]
    for name, data in files.items():
        raw = name.encode()
        parts += [_ENTRY.pack(len(raw), len(data)), raw, data]
    return b"".join(parts)


def unpack(data: bytes, only: str) -> dict[str, bytes]:
    """The files of a bundle as far as it goes, or the bytes as one file called `only`."""
    if not data.startswith(_MAGIC):
        return {only: data}
    files: dict[str, bytes] = {}
    position = len(_MAGIC)
    while position + _ENTRY.size <= len(data):
        name_length, length = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        name = data[position : position + name_length].decode("ascii", "replace")[:_MOST_NAME]
        position += name_length
        files[name if name.strip(".") and not set(name) & set("/\0") else "odd"] = data[position : position + length]
        position += length
    return files or {only: data}


def pack_directory(directory: Path, first: str) -> bytes:
    """The files of a directory, the one called `first` before the others."""
    names = sorted(
        (path.name for path in directory.iterdir() if path.is_file()), key=lambda name: (name != first, name)
    )
    return pack({name: (directory / name).read_bytes() for name in names})

"""The state of a checkpoint: that by which a look at its files, none of which is read, tells whether they were changed.

Of each file on which a report depends, that is the size and the times of the last change of its bytes and of anything
about it. The latter is the system's own: who changes bytes and sets the former back changes the latter. A file that
was changed within the last moment before it is looked at may be changed again without another time; of such a one, and
of no other, the state has the digest, and the file is read to compare it. Of a file at an address, the state is what
its server tells: the size, and the tag or version or time.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from manifest.checkpoint.containers.sharded import LARGEST_INDEX, shards_in
from manifest.checkpoint.directories import INDEX
from manifest.digests import file_blake3
from manifest.errors import ManifestError
from manifest.escaping import address_in
from manifest.remote import Address, facts, opened
from manifest.storage.bounded_read import read_small
from manifest.storage.sidecars import Sidecars

State = list[list[Any]]
"""Of each file its name, size and times in nanoseconds, and a digest or None; or its address and facts."""

_MOMENT = 2_000_000_000
"""Nanoseconds in which some file systems give every change the same time."""
_CONFIGS = ("config.json", "open_clip_config.json", "model_index.json", "adapter_config.json")
"""What an audit reads of the same folder."""


def state_of(path: str | Path) -> State:
    """The state of a checkpoint, to be taken before it is checked.

    Returns:
        Nothing of what is not there or cannot be looked at, which checking it says.
    """
    with suppress(OSError, ValueError, ManifestError):  # as of a name that is too long
        address = address_in(path)
        return _of_files(Path(path)) if address is None else _of_address(Address(address))
    return []


def is_still(path: str | Path, state: State) -> bool:
    """Whether a checkpoint is as it was; a file whose digest is in the state is read.

    Args:
        path: The checkpoint.
        state: What `state_of` said of it.
    """
    with suppress(OSError, ValueError, ManifestError):
        address = address_in(path)
        if address is not None or not state:
            return bool(state) and address is not None and _of_address(Address(address)) == state
        there = _looked_at(Path(path))
        return [entry for _, entry in there] == [entry[:-1] for entry in state] and all(
            digest is None or file_blake3(file) == digest for (file, _), (*_, digest) in zip(there, state, strict=True)
        )
    return False


def _of_files(path: Path) -> State:
    now = time.time_ns()
    return [[*entry, file_blake3(file) if max(entry[2:]) > now - _MOMENT else None] for file, entry in _looked_at(path)]


def _looked_at(path: Path) -> list[tuple[Path, list[Any]]]:
    """The files on which a report may depend, each with its name, size and times."""
    path.stat()  # or there is no checkpoint
    found = []
    for file in dict.fromkeys(_files(path)):
        with suppress(FileNotFoundError):
            status = file.stat()
            if stat.S_ISREG(status.st_mode):
                found.append((file, [file.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns]))
    return found


def _files(path: Path) -> Iterator[Path]:
    """Those files, be they there or not: of the checkpoint, beside it, and beside what a link leads to."""
    is_folder = path.is_dir()
    folder = path if is_folder else path.parent
    inside = sorted(path.iterdir()) if is_folder else [path]
    yield from inside
    for place in (path, path.resolve()) if path.is_symlink() else (path,):
        sidecars = Sidecars(place)
        yield from (sidecars.manifest, sidecars.pending_manifest, sidecars.pending_signature, *sidecars.signatures)
    yield from (folder / name for name in _CONFIGS)
    for index in inside:
        if index.name.endswith(INDEX):
            names = shards_in(read_small(index, "index", most=LARGEST_INDEX))
            yield from (folder / name for name in names)


def _of_address(address: Address) -> State:
    sidecars = Sidecars(Path(address.name))
    names = [sidecars.manifest.name, sidecars.signature.name]
    if address.name.endswith(INDEX):
        source = opened(address)
        names += shards_in(source.read(0, source.size)) if source.size <= LARGEST_INDEX else []
    told = [(each, facts(each)) for each in (address, *map(address.beside, names))]
    return [[each.public, found] for each, found in told if found is not None]

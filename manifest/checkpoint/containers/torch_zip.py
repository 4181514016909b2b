"""The zip form of `torch.save`, written since torch 1.6.

An archive of one root folder: `data.pkl`, which describes the object, and one record of bytes for each storage. What
torch itself does not check is checked here, so that a file which passes reads the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from manifest.checkpoint.containers.torch_archive import BOOKKEEPING, Archive, malformed, read_archive, storage_ranges
from manifest.checkpoint.containers.zip_records import Record, is_zip
from manifest.checkpoint.contents import Container, Contents, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.pickles.pickle_vm import Interpreted, interpret
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.checkpoint.sniffing import Sniffed, foreign_zip
from manifest.checkpoint.state_dicts import find_states, short_texts
from manifest.checkpoint.storage_layout import candidates, check_tensors
from manifest.escaping import printable

PICKLE = "data.pkl"
STORAGES = "data/"


@dataclass(frozen=True)
class Saved:
    """What one call of `torch.save` wrote.

    Attributes:
        root: The object, inert.
        interpreted: What else its pickle says.
        ranges: The byte range of each storage, by its key.
        swapped: Whether the storages are big-endian.
        records: Everything in the archive.
    """

    root: Any
    interpreted: Interpreted
    ranges: dict[str, tuple[int, int]]
    swapped: bool
    records: tuple[Record, ...]


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is an archive, and not one of the other kinds that are known."""
    return is_zip(sniffed.file) and foreign_zip(sniffed) is None


def read(file: FileBytes) -> Contents:
    """Tensors of a file written by `torch.save`.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F004` when it cannot be listed without its
            code, `F001` when it holds no weights.
    """
    saved = read_saved(file)
    found = candidates(find_states(saved.root, saved.interpreted.globals), saved.ranges, swapped=saved.swapped)
    interpreted = saved.interpreted
    return Contents(
        found, interpreted.globals, interpreted.refused_opcodes, records=saved.records, said=short_texts(saved.root)
    )


CONTAINER = Container("torch-zip", recognises, alone(read))


def read_saved(file: FileBytes) -> Saved:
    """The object in an archive of `torch.save`, which may be a part of a file, and the places of its storages in it."""
    archive = read_archive(file, lambda name: name.startswith(STORAGES), either_order=True)
    if PICKLE not in archive.records:
        raise malformed(f"the zip archive has no '{PICKLE}', which every file of torch.save has")
    for name in archive.records:
        if name != PICKLE and name not in BOOKKEEPING and not name.startswith(STORAGES):
            raise malformed(f"the zip archive has a record '{printable(name)}', which torch.save never writes")
    objects = TorchObjects()
    interpreted = read_pickle(archive, PICKLE, objects)
    ranges = storage_ranges(objects.storages(), archive.records, lambda key: STORAGES + key)
    for name in archive.records:
        if name.startswith(STORAGES) and name.removeprefix(STORAGES) not in ranges:
            raise malformed(f"record '{printable(name)}' is of no storage that the pickle refers to")
    objects.check_storages()
    check_tensors(objects.tensors, len(file))
    return Saved(interpreted.root, interpreted, ranges, archive.swapped, tuple(archive.records.values()))


def read_pickle(archive: Archive, name: str, objects: TorchObjects) -> Interpreted:
    """Run the pickle in a record inertly; it must be all of it."""
    pickle = archive.small(name)
    interpreted = interpret(pickle, objects.constructors, objects.persistent)
    if interpreted.end != len(pickle):
        raise malformed(f"record '{printable(name)}' goes on after the pickle in it")
    return interpreted

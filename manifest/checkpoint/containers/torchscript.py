"""TorchScript: an archive of `torch.jit.save`, with the module as a pickle, its code as source, and its storages.

The code is looked at, never compiled: only for the lines that say which attributes of a class are parameters and
buffers. The records are those of `torch/csrc/jit/serialization/export_module.cpp`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

from manifest.checkpoint.containers.torch_archive import Archive, malformed, read_archive, storage_ranges
from manifest.checkpoint.containers.torch_zip import PICKLE, STORAGES, read_pickle
from manifest.checkpoint.contents import Container, Contents, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.gathering import inflated_head
from manifest.checkpoint.modules import is_module, named_tensors
from manifest.checkpoint.pickles.named_globals import ODDLY
from manifest.checkpoint.pickles.stand_ins import Opaque
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.state_dicts import as_state
from manifest.checkpoint.storage_layout import candidates, check_tensors
from manifest.errors import CheckpointError
from manifest.escaping import printable

_CODE = "code/"
_VALUES = (STORAGES, "constants/", "extra/")
_MOST_SOURCE_BYTES = 16 << 20
# Possessive, since a search that may go back keeps hundreds of bytes for each line.
_CLASS = re.compile(r"^class (\w++)\(Module\):\n((?:  __\w++ = .*+\n)*+)", re.MULTILINE)
_NAME = re.compile(r'"([^"]*)"')
_MEMBERS = re.compile(r"__(?:parameters|buffers)__ = \[(.*)\]")


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is an archive with constants, byte code or code in it."""
    inside = sniffed.inside
    return PICKLE in inside and (
        not inside.isdisjoint(("constants.pkl", "bytecode.pkl")) or any(name.startswith(_CODE) for name in inside)
    )


def read(file: FileBytes) -> Contents:
    """Parameters and buffers of a program.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F001` when it holds no tensors.
    """
    archive = read_archive(file, lambda name: name.startswith(_VALUES), lambda name: name.startswith(_CODE))
    objects = TorchObjects()
    interpreted = read_pickle(archive, PICKLE, objects)
    ranges = storage_ranges(objects.storages(), archive.records, lambda key: STORAGES + key)
    check_tensors(objects.tensors, len(file))
    module = interpreted.root
    if not isinstance(module, Opaque) or not is_module(module):
        raise malformed("the object of the TorchScript program is no module")
    tensors = named_tensors(module, _persistent(archive, interpreted.globals))
    if not tensors:
        raise CheckpointError(
            "it is a TorchScript program without parameters or buffers, so it holds no weights; pass one that does.",
            rule="F001",
        )
    code = tuple(name for name in archive.records if name.startswith(_CODE) and name.endswith(".py"))
    found = candidates([as_state(tensors)], ranges)
    # Only torch's own reader of programs unpickles it, which calls nothing of Python's.
    globals_ = tuple(name for name in interpreted.globals if not name.endswith(ODDLY))
    return Contents(found, globals_, interpreted.refused_opcodes, code, tuple(archive.records.values()))


CONTAINER = Container("torchscript", recognises, alone(read))


def _persistent(archive: Archive, wanted: Iterable[str]) -> dict[str, frozenset[str]]:
    """By class, which attributes its source calls parameters or buffers; of those classes that the pickle names."""
    classes: dict[str, set[str]] = {}
    for name in wanted:
        classes.setdefault(name.rpartition(".")[0], set()).add(name.rpartition(".")[2])
    members: dict[str, frozenset[str]] = {}
    left = _MOST_SOURCE_BYTES
    for name, record in archive.records.items():
        if not name.startswith(_CODE) or not name.endswith(".py"):
            continue
        size = record.size if record.inflated is None else record.inflated
        left -= size
        if left < 0:
            raise CheckpointError(
                f"its code has more than {_MOST_SOURCE_BYTES:,} bytes; do not load it unless you know who made it.",
                rule="F003",
            )
        source = _source(archive, record.start, record.end, size, deflated=record.inflated is not None)
        if zlib.crc32(source) != record.crc and record.crc:
            raise malformed(f"record '{printable(name)}' does not have its checksum, so its bytes have changed")
        module = name[len(_CODE) :].removesuffix(".py").replace("/", ".")
        if module not in classes:
            continue
        for found in _CLASS.finditer(source.decode("utf-8", "replace")):
            if found[1] in classes[module]:
                members[f"{module}.{found[1]}"] = frozenset(
                    name[1] for line in _MEMBERS.finditer(found[2]) for name in _NAME.finditer(line[1])
                )
    return members


def _source(archive: Archive, start: int, end: int, size: int, *, deflated: bool) -> bytes:
    return inflated_head(archive.file, start, end, size) if deflated else archive.file[start:end]

"""The form of `torch.save` before torch 1.6: five pickles in a row, then the storages.

The pickles are a magic number, a version, the sizes of C types, the object, and the keys of the storages in the order
in which their bytes follow: for each a count of elements, as eight bytes, and the elements. The bytes are little-endian
whatever wrote them (`torch/csrc/serialization.cpp`), and nothing is aligned or has a checksum.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import accumulate
from typing import Any, NoReturn

from manifest.checkpoint.contents import Container, Contents, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.pickles.pickle_vm import MOST_PICKLE_BYTES, Interpreted, interpret
from manifest.checkpoint.pickles.stand_ins import malformed
from manifest.checkpoint.pickles.torch_objects import PickledStorage, TorchObjects
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.state_dicts import find_states, short_texts
from manifest.checkpoint.storage_layout import candidates, check_tensors
from manifest.errors import CheckpointError
from manifest.escaping import printable

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PICKLED_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_VERSION = 1001
_MOST_PREAMBLE = 1 << 16
_MOST_PICKLES = 3 * _MOST_PREAMBLE + 2 * MOST_PICKLE_BYTES + 1  # three before the object, the object, the keys after it
_COUNT_BYTES = 8


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file begins with torch's magic number as a pickle."""
    head = sniffed.file[:64]
    return head.startswith(b"\x80") and _PICKLED_MAGIC in head


def read(file: FileBytes) -> Contents:
    """Tensors of a file in the legacy form.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F004` when it cannot be listed without its
            code, `F001` when it holds no weights.
    """
    *shorter, longest = file.beginnings(_MOST_PICKLES)
    for size in shorter:
        with suppress(CheckpointError):  # cut short, most likely
            return _read(file, file[:size])
    return _read(file, file[:longest])


CONTAINER = Container("torch-legacy", recognises, alone(read))


def _read(file: FileBytes, pickles: bytes) -> Contents:
    position = _after_preamble(pickles)
    objects = TorchObjects(legacy=True)
    _check_more(pickles, position)
    interpreted = interpret(pickles, objects.constructors, objects.persistent, start=position)
    keys = _plain_pickle(pickles, interpreted.end, MOST_PICKLE_BYTES)
    ranges = _ranges(file, keys.end, _ordered_storages(keys.root, objects))
    check_tensors(objects.tensors, len(file))
    found = candidates(find_states(interpreted.root, interpreted.globals), ranges)
    said = short_texts(interpreted.root)
    return Contents(found, interpreted.globals, interpreted.refused_opcodes, said=said)


def _no_persistent_id(identifier: Any) -> NoReturn:  # noqa: ARG001
    raise malformed("a pickle around the object has a persistent id, which torch.save never writes there")


def _plain_pickle(pickles: bytes, position: int, limit: int) -> Interpreted:
    """One of the pickles around the object, which hold plain values only."""
    _check_more(pickles, position)
    interpreted = interpret(pickles, {}, _no_persistent_id, start=position, limit=limit)
    if interpreted.globals:
        raise malformed(
            f"a pickle around the object names a global, '{printable(interpreted.globals[0])}', "
            "where torch.save writes plain values"
        )
    return interpreted


def _check_more(pickles: bytes, position: int) -> None:
    if position >= len(pickles):
        raise malformed("the file ends where the next of torch's five pickles was expected")


def _after_preamble(pickles: bytes) -> int:
    """Check the three pickles before the object, and give the offset after them."""
    position = 0
    for what, expected in (("magic number", MAGIC_NUMBER), ("version", _VERSION)):
        found = _plain_pickle(pickles, position, _MOST_PREAMBLE)
        if type(found.root) is not int or found.root != expected:
            raise malformed(f"the {what} is not {expected}, which torch.save writes")
        position = found.end
    sizes = _plain_pickle(pickles, position, _MOST_PREAMBLE)
    if not isinstance(sizes.root, dict):
        raise malformed(f"the third pickle is a {type(sizes.root).__name__} where the sizes of C types were expected")
    return sizes.end


def _ordered_storages(keys: Any, objects: TorchObjects) -> list[PickledStorage]:
    """The storages in the order of the file, which must be those that the object refers to."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise malformed("the fifth pickle is no list of storage keys")
    objects.check_storages()
    by_key: dict[str, PickledStorage] = {}
    for storage in objects.storages():
        if by_key.setdefault(storage.key, storage) is not storage:
            raise malformed(f"the pickle gives the empty storage '{printable(storage.key)}' two types")
    if len(set(keys)) != len(keys):
        raise malformed("the fifth pickle has a storage key twice")
    if unknown := [key for key in keys if key not in by_key]:
        raise malformed(f"storage '{printable(unknown[0])}' follows, which the pickle does not refer to")
    if missing := by_key.keys() - set(keys):
        raise malformed(
            f"the pickle refers to the storage '{printable(min(missing))}', which does not follow in the file"
        )
    return [by_key[key] for key in keys]


def _ranges(file: FileBytes, position: int, storages: list[PickledStorage]) -> dict[str, tuple[int, int]]:
    """The byte range of each storage, whose counts and lengths must use up the file."""
    ends = accumulate((_COUNT_BYTES + storage.nbytes for storage in storages), initial=position)
    file.expect((end, end + _COUNT_BYTES) for end in ends)
    ranges: dict[str, tuple[int, int]] = {}
    for storage in storages:
        start = position + _COUNT_BYTES
        if start > len(file):
            raise malformed(f"the file ends before the length of storage '{printable(storage.key)}'")
        count = int.from_bytes(file[position:start], "little", signed=True)
        if count * storage.itemsize != storage.nbytes:
            raise malformed(
                f"storage '{printable(storage.key)}' has {count:,} elements where the pickle says "
                f"{storage.nbytes // storage.itemsize:,}"
            )
        position = start + storage.nbytes
        if position > len(file):
            raise malformed(
                f"storage '{printable(storage.key)}' claims {storage.nbytes:,} bytes, and "
                f"{len(file) - start:,} are left"
            )
        ranges[storage.key] = (start, position)
    if position != len(file):
        raise malformed(f"{len(file) - position:,} bytes after the last storage belong to none")
    return ranges

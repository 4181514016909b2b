"""The zip form of `torch.save`, written since torch 1.6.

An archive of one root folder: `data.pkl`, which describes the object, and one record of bytes for each storage. What
torch itself does not check is checked here, so that a file which passes reads the same everywhere.
"""

from __future__ import annotations

from mmap import mmap

from manifest.checkpoint.contents import Container, Contents
from manifest.checkpoint.escaping import printable
from manifest.checkpoint.inert_pickle import MOST_PICKLE_BYTES, interpret
from manifest.checkpoint.placing import check_tensors, stored_tensor
from manifest.checkpoint.sniffing import foreign_zip
from manifest.checkpoint.state_dicts import find_state, strip_prefixes
from manifest.checkpoint.tensors import StoredTensor
from manifest.checkpoint.torch_objects import PickledTensor, TorchObjects
from manifest.checkpoint.zip_records import Record, check_crc, is_zip, read_records
from manifest.errors import CheckpointError

_PICKLE = "data.pkl"
_VERSIONS = ("version", ".data/version")
_BYTE_ORDER = "byteorder"
_STORAGES = "data/"
_SMALL_RECORDS = frozenset(
    (_PICKLE, *_VERSIONS, _BYTE_ORDER, ".format_version", ".storage_alignment", ".data/serialization_id")
)

_NEWEST_VERSION = 10  # kMaxSupportedFileFormatVersion in caffe2/serialize/versions.h


def recognises(mapping: mmap) -> bool:
    """Whether the file is an archive, and not one of the other kinds that are known."""
    return is_zip(mapping) and foreign_zip(mapping) is None


def read(mapping: mmap) -> Contents:
    """Tensors of a file written by `torch.save`.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F004` when it cannot be listed without its
            code or was written by a big-endian machine, `F001` when it holds no weights.
    """
    records = _records_without_root(read_records(mapping))
    _check_small_records(mapping, records)
    _check_byte_order(mapping, records)
    _check_version(mapping, records)
    pickle = records[_PICKLE]
    objects = TorchObjects()
    interpreted = interpret(mapping[pickle.start : pickle.end], objects.constructors, objects.persistent)
    if interpreted.end != pickle.end - pickle.start:
        raise _malformed(f"record '{_PICKLE}' goes on after the pickle in it")
    _check_storages(objects, records)
    check_tensors(objects.tensors, len(mapping))
    found = find_state(interpreted.root)
    stored = {name: _stored(name, tensor, records) for name, tensor in found.tensors.items()}
    prefix, tensors = strip_prefixes(stored)
    return Contents(tensors, found.path, prefix, found.extras, interpreted.unsafe_globals)


CONTAINER = Container("torch-zip", recognises, read)


def _records_without_root(records: dict[str, Record]) -> dict[str, Record]:
    """Records by their names inside the one root folder, folders themselves left out."""
    roots = {name.partition("/")[0] if "/" in name else None for name in records}
    if len(roots) != 1 or roots & {None, ""}:
        raise _malformed(f"the zip archive has {len(roots)} names at its root where torch.save makes one folder")
    return {
        name.partition("/")[2]: record
        for name, record in records.items()
        if not name.endswith("/") or record.start != record.end
    }


def _check_small_records(mapping: mmap, records: dict[str, Record]) -> None:
    """Check that everything beside the storages is known, small, and has its checksum."""
    if _PICKLE not in records:
        raise _malformed(f"the zip archive has no '{_PICKLE}', which every file of torch.save has")
    if not any(name in records for name in _VERSIONS):
        raise _malformed("the zip archive has no 'version', which every file of torch.save has")
    # torch.save can be told to leave out all checksums; then there is none to compare.
    with_checksums = any(record.crc for record in records.values())
    for name, record in records.items():
        if name.startswith(_STORAGES):
            continue
        if name not in _SMALL_RECORDS:
            raise _malformed(f"the zip archive has a record '{printable(name)}', which torch.save never writes")
        if record.end - record.start > MOST_PICKLE_BYTES:
            raise CheckpointError(
                f"record '{name}' has {record.end - record.start:,} bytes, over the limit of {MOST_PICKLE_BYTES:,}; "
                "do not load this file unless you know who made it.",
                rule="F003",
            )
        if with_checksums:
            check_crc(mapping, record)


def _check_version(mapping: mmap, records: dict[str, Record]) -> None:
    record = next(records[name] for name in _VERSIONS if name in records)
    version = mapping[record.start : min(record.end, record.start + 16)]
    if not version.strip().isdigit():
        raise _malformed(
            f"the zip archive has the version '{printable(version.decode('latin-1'))}', which is no number"
        )
    if int(version) > _NEWEST_VERSION:
        raise CheckpointError(
            f"it has the form of version {int(version)}, newer than {_NEWEST_VERSION}, the last that torch reads; "
            "save it again with a released torch.",
            rule="F004",
        )


def _check_byte_order(mapping: mmap, records: dict[str, Record]) -> None:
    record = records.get(_BYTE_ORDER)
    order = mapping[record.start : min(record.end, record.start + 16)] if record else b"little"
    if order == b"big":
        raise CheckpointError(
            "it was saved on a big-endian machine, which cannot be read yet; load it with torch and save it again.",
            rule="F004",
        )
    if order != b"little":
        raise _malformed(f"record '{_BYTE_ORDER}' says '{printable(order.decode('latin-1'))}', neither little nor big")


def _check_storages(objects: TorchObjects, records: dict[str, Record]) -> None:
    """Check that storages and their records are one to one, and of one size."""
    for storage in objects.storages():
        record = records.get(_STORAGES + storage.key)
        if record is None:
            raise _malformed(
                f"the pickle refers to the storage '{printable(storage.key)}', which the zip archive does not have"
            )
        if record.end - record.start != storage.nbytes:
            raise _malformed(
                f"storage '{printable(storage.key)}' has {record.end - record.start:,} bytes where the pickle says "
                f"{storage.nbytes:,}"
            )
    used = {_STORAGES + storage.key for storage in objects.storages()}
    for name in records:
        if name.startswith(_STORAGES) and name not in used:
            raise _malformed(f"record '{printable(name)}' is of no storage that the pickle refers to")


def _stored(name: str, tensor: PickledTensor, records: dict[str, Record]) -> StoredTensor:
    record = records[_STORAGES + tensor.storage.key]
    return stored_tensor(name, tensor, (record.start, record.end))


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with torch.save.", rule="F002")

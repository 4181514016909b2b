"""The archives of torch's own writer, `PyTorchFileWriter`: one root folder, a version, a byte order, and storages.

`torch.save`, TorchScript, torch.package and torch.export all write them, with different records inside. What they have
in common is checked here; torch itself checks none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from manifest.checkpoint.containers.zip_records import Record, check_crc, nothing, read_records
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.pickles.pickle_vm import MOST_PICKLE_BYTES
from manifest.checkpoint.pickles.torch_objects import PickledStorage
from manifest.errors import CheckpointError
from manifest.escaping import printable

VERSIONS = ("version", ".data/version")
_BYTE_ORDER = "byteorder"
BOOKKEEPING = frozenset((*VERSIONS, _BYTE_ORDER, ".format_version", ".storage_alignment", ".data/serialization_id"))
"""Records that say nothing about the contents."""

_NEWEST_VERSION = 10  # kMaxSupportedFileFormatVersion in caffe2/serialize/versions.h


@dataclass(frozen=True)
class Archive:
    """An archive whose common parts have been checked.

    Attributes:
        file: Its bytes.
        records: By their names inside the root folder.
        swapped: Whether its storages are big-endian.
    """

    file: FileBytes
    records: dict[str, Record]
    swapped: bool

    def small(self, name: str) -> bytes:
        """The bytes of a record that is a description, not a storage.

        Raises:
            CheckpointError: `F003` when it is over the limit of a description.
        """
        record = self.records[name]
        if record.size > MOST_PICKLE_BYTES:
            raise CheckpointError(
                f"record '{printable(name)}' has {record.size:,} bytes, over the limit of {MOST_PICKLE_BYTES:,}; "
                "do not load this file unless you know who made it.",
                rule="F003",
            )
        return self.file[record.start : record.end]


def read_archive(
    file: FileBytes,
    is_storage: Callable[[str], bool],
    compressible: Callable[[str], bool] = nothing,
    *,
    either_order: bool = False,
) -> Archive:
    """Check the records of an archive, and the checksum of all but the storages.

    Args:
        file: The archive.
        is_storage: Whether a record, by its name inside the root folder, holds values only.
        compressible: Whether such a record may be compressed, as code is.
        either_order: Whether torch minds the byte order of such an archive.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F004` for a form newer than torch's, and for
            one whose bytes torch would take for numbers of the other byte order.
    """
    records = _without_root(read_records(file, lambda name: compressible(name.partition("/")[2])))
    archive = Archive(file, records, swapped=False)
    # torch.save can be told to leave out all checksums; then there is none to compare.
    if any(record.crc for record in records.values()):
        for name, record in records.items():
            if not is_storage(name) and record.inflated is None:
                archive.small(name)
                check_crc(file, record)
    _check_version(archive)
    swapped = _is_big_endian(archive)
    if swapped and not either_order:
        raise CheckpointError(
            "its numbers are big-endian, and torch would read them wrongly on most machines; "
            "save the weights with torch.save instead.",
            rule="F004",
        )
    return Archive(file, records, swapped)


def storage_ranges(
    storages: Iterable[PickledStorage], records: dict[str, Record], name_of: Callable[[str], str]
) -> dict[str, tuple[int, int]]:
    """The byte range of each storage that a pickle refers to, once it is known to be of the size that it claims.

    Args:
        storages: What the pickle refers to.
        records: The records of the archive.
        name_of: The record that holds a storage, by its key.
    """
    ranges: dict[str, tuple[int, int]] = {}
    for storage in storages:
        record = records.get(name_of(storage.key))
        if record is None:
            raise malformed(
                f"the pickle refers to the storage '{printable(storage.key)}', which the zip archive does not have"
            )
        if record.size != storage.nbytes or record.inflated is not None:
            raise malformed(
                f"storage '{printable(storage.key)}' has {record.size:,} bytes where the pickle says {storage.nbytes:,}"
            )
        ranges[storage.key] = (record.start, record.end)
    return ranges


def malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with torch.save.", rule="F002")


def _without_root(records: dict[str, Record]) -> dict[str, Record]:
    """Records by their names inside the one root folder, folders themselves left out."""
    roots = {name.partition("/")[0] if "/" in name else None for name in records}
    if len(roots) != 1 or roots & {None, ""}:
        raise malformed(f"the zip archive has {len(roots)} names at its root where torch makes one folder")
    return {
        name.partition("/")[2]: record
        for name, record in records.items()
        if not name.endswith("/") or record.start != record.end
    }


def _check_version(archive: Archive) -> None:
    name = next((name for name in VERSIONS if name in archive.records), None)
    if name is None:
        raise malformed("the zip archive has no 'version', which every file of torch's has")
    version = archive.small(name)[:16]
    if not version.strip().isdigit():
        raise malformed(f"the zip archive has the version '{printable(version.decode('latin-1'))}', which is no number")
    if int(version) > _NEWEST_VERSION:
        raise CheckpointError(
            f"it has the form of version {int(version)}, newer than {_NEWEST_VERSION}, the last that torch reads; "
            "save it again with a released torch.",
            rule="F004",
        )


def _is_big_endian(archive: Archive) -> bool:
    order = archive.small(_BYTE_ORDER)[:16] if _BYTE_ORDER in archive.records else b"little"
    if order not in (b"little", b"big"):
        raise malformed(f"record '{_BYTE_ORDER}' says '{printable(order.decode('latin-1'))}', neither little nor big")
    return order == b"big"

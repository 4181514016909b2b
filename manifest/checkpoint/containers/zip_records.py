"""The records of a zip archive, read so strictly that no other reader can see another archive in the same bytes.

torch's reader ignores checksums, case and trailing bytes, Python's `zipfile` resolves duplicates the other way, and
both trust the central directory over the local headers. Here directory, local headers and bytes must agree, record
after record, from the first byte to the last. The format: PKWARE's APPNOTE.TXT 6.3.10.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.files import OpenFile
from manifest.errors import CheckpointError
from manifest.escaping import printable, writable

MOST_RECORDS = 1_100_000

_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_EXTRA = struct.Struct("<2H")

_END_MAGIC = b"PK\x05\x06"
_END_64_MAGIC = b"PK\x06\x06"
_LOCATOR_64_MAGIC = b"PK\x06\x07"
_CENTRAL_MAGIC = b"PK\x01\x02"
_LOCAL_MAGIC = b"PK\x03\x04"
_DESCRIPTOR_MAGIC = b"PK\x07\x08"

_ZIP64_FIELD = 0x0001
_UNICODE_PATH_FIELD = 0x7075
_IN_EXTRA_32 = 0xFFFFFFFF
_IN_EXTRA_16 = 0xFFFF
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_HAS_DESCRIPTOR = 0x0008
_INFLATED_AT_ONCE = 1 << 20  # bytes
_METHODS = (0, 8)  # stored, deflated
_DESCRIPTOR = 24  # bytes before a header, at most, of what describes the record before it


@dataclass(frozen=True, slots=True)
class Record:
    """One stored file of the archive.

    Attributes:
        name: Its full name, as the directory has it.
        start: Offset in the file of its first byte of data.
        end: Offset after the last.
        crc: Its CRC-32 according to the directory.
        inflated: How many bytes it inflates to when it is compressed; None when it is stored as it is.
    """

    name: str
    start: int
    end: int
    crc: int
    inflated: int | None = None

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the central directory."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int  # offset of the local header

    @property
    def name(self) -> str:
        return self.raw_name.decode("utf-8", "surrogateescape")

    @property
    def shown(self) -> str:
        return _shown(self.raw_name)


def is_zip(file: FileBytes) -> bool:
    """Whether the file begins as an archive with or without records does."""
    return file[:4] in (_LOCAL_MAGIC, _END_MAGIC)


def list_names(file: FileBytes) -> tuple[str, ...]:
    """Names in the archive's directory, nothing else of it checked.

    Raises:
        CheckpointError: `F002` when the directory cannot be followed, `F003` when it is too long.
    """
    return tuple(entry.name for entry in _directory(file)[0])


def nothing(name: str) -> bool:  # noqa: ARG001
    """No record may be compressed."""
    return False


def read_records(
    file: FileBytes, compressible: Callable[[str], bool] = nothing, *, case_matters: bool = False
) -> dict[str, Record]:
    """Every record by name, in the order of the file, of an archive without ambiguity.

    Args:
        file: The archive, or the part of a file that is one by itself.
        compressible: Whether the record of a name may be compressed; nothing is inflated here.
        case_matters: Whether names may differ in case only, because no reader of this container ignores it.

    Raises:
        CheckpointError: `F002` for anything that two readers could see in two ways, `F003` when over a limit.
    """
    entries, directory_start = _directory(file)
    _check_names(entries, case_matters=case_matters)
    file.expect((entry.header - _DESCRIPTOR, entry.header + _LOCAL.size) for entry in entries)
    records: dict[str, Record] = {}
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.header):
        if entry.header != position:
            raise _misplaced(entry, position)
        may_deflate = compressible(entry.name)
        start = _check_local_header(file, entry, directory_start, _METHODS[: 1 + may_deflate])
        end = start + entry.compressed
        position = _after_descriptor(file, entry, end, directory_start)
        inflated = entry.size if entry.method else None
        records[entry.name] = Record(entry.name, start, end, entry.crc, inflated)
    if position != directory_start:
        raise _malformed(f"{directory_start - position:,} bytes before the zip directory belong to no record")
    return records


def check_crc(file: FileBytes, record: Record) -> None:
    """Refuse a record whose bytes are not those that were written."""
    if zlib.crc32(file[record.start : record.end]) != record.crc:
        raise _malformed(f"record '{printable(record.name)}' does not have its checksum, so its bytes have changed")


def wrong_checksum(file: OpenFile, record: Record) -> bool:
    """Whether the values of a record are not those that were written; the values of a compressed one are inflated."""
    found = produced = 0
    inflater = None if record.inflated is None else zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for data in file.blocks(record.start, record.size):
            pending: bytes | memoryview = data
            while inflater is not None and pending:
                inflated = inflater.decompress(pending, _INFLATED_AT_ONCE)
                produced += len(inflated)
                if record.inflated is None or produced > record.inflated:
                    return True
                found = zlib.crc32(inflated, found)
                pending = inflater.unconsumed_tail
            if inflater is None:
                found = zlib.crc32(data, found)
        if inflater is not None:
            found = zlib.crc32(inflater.flush(), found)
    except zlib.error:
        return True
    return found != record.crc


def _directory(file: FileBytes) -> tuple[list[_Entry], int]:
    """The central directory, and where it begins."""
    count, size, start = _end_of_directory(file)
    if count > MOST_RECORDS:
        raise CheckpointError(
            f"the zip archive lists {count:,} records, over the limit of {MOST_RECORDS:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    file.expect([(start, start + size)])
    entries = list(islice(_entries(file, start, start + size), MOST_RECORDS + 1))
    if len(entries) != count:
        raise _malformed(f"the zip directory has {len(entries):,} records where its end says {count:,}")
    return entries, start


def _end_of_directory(file: FileBytes) -> tuple[int, int, int]:
    """Number of entries, size and offset of the central directory."""
    end_start = len(file) - _END.size
    if end_start < 0 or file[end_start : end_start + 4] != _END_MAGIC:
        raise _malformed("the file does not end with a zip directory, so it is cut short or has bytes after its end")
    _, disk, first_disk, count_here, count, size, start, comment = file.unpack(_END, end_start)
    if comment or disk not in (0, _IN_EXTRA_16) or first_disk not in (0, _IN_EXTRA_16) or count_here != count:
        raise _malformed("the end of the zip directory is not that of an archive in one piece without a comment")
    locator_start = end_start - _LOCATOR_64.size
    directory_end = end_start
    if locator_start >= 0 and file[locator_start : locator_start + 4] == _LOCATOR_64_MAGIC:
        directory_end = locator_start - _END_64.size
        large = _end_of_large_directory(file, locator_start)
        small = (count, size, start)
        for found, beside, unset in zip(large, small, (_IN_EXTRA_16, _IN_EXTRA_32, _IN_EXTRA_32), strict=True):
            if beside not in (found, unset):
                raise _malformed("the two ends of the zip directory disagree")
        count, size, start = large
    if start + size != directory_end:
        raise _malformed("the zip directory does not lie right before its end")
    return count, size, start


def _end_of_large_directory(file: FileBytes, locator_start: int) -> tuple[int, int, int]:
    """The same numbers out of the zip64 record, which must lie right before its locator."""
    _, _, end_start, disks = file.unpack(_LOCATOR_64, locator_start)
    if end_start != locator_start - _END_64.size or end_start < 0 or disks > 1:
        raise _malformed("the zip64 end of the directory is not where its locator says")
    magic, length, _, _, disk, first_disk, count_here, count, size, start = file.unpack(_END_64, end_start)
    if magic != _END_64_MAGIC or length != _END_64.size - 12 or disk or first_disk or count_here != count:
        raise _malformed("the zip64 end of the directory is not that of an archive in one piece")
    return count, size, start


def _entries(file: FileBytes, position: int, end: int) -> Iterator[_Entry]:
    while position < end:
        if position + _CENTRAL.size > end:
            raise _malformed("the zip directory ends within an entry")
        fields = file.unpack(_CENTRAL, position)
        (magic, _, _, flags, method, _, _, crc, compressed, size) = fields[:10]
        (name_length, extra_length, comment_length, disk, _, _, header) = fields[10:]
        name_start = position + _CENTRAL.size
        extra_start = name_start + name_length
        position = extra_start + extra_length + comment_length
        if magic != _CENTRAL_MAGIC or position > end:
            raise _malformed("the zip directory has an entry that is none")
        raw_name = file[name_start:extra_start]
        extra = file[extra_start : extra_start + extra_length]
        wide = _wide_sizes(raw_name, extra, [size, compressed, header, disk])
        if wide[3]:
            raise _malformed(f"record '{_shown(raw_name)}' is on another disk of the zip archive")
        yield _Entry(raw_name, flags, method, crc, wide[1], wide[0], wide[2])


def _wide_sizes(raw_name: bytes, extra: bytes, values: list[int]) -> list[int]:
    """Sizes and offsets of an entry, those that do not fit into their field taken from the extra field."""
    fields = _extra_fields(raw_name, extra) if extra else {}
    zip64 = fields.get(_ZIP64_FIELD, b"")
    wide: list[int] = []
    for value, unset, width in zip(values, (*[_IN_EXTRA_32] * 3, _IN_EXTRA_16), (8, 8, 8, 4), strict=False):
        if value != unset:
            wide.append(value)
            continue
        if len(zip64) < width:
            raise _malformed(f"record '{_shown(raw_name)}' has a size that is nowhere in the zip directory")
        wide.append(int.from_bytes(zip64[:width], "little"))
        zip64 = zip64[width:]
    return wide


def _extra_fields(raw_name: bytes, extra: bytes) -> dict[int, bytes]:
    """The extra fields of a header, by their numbers; the first of each."""
    fields: dict[int, bytes] = {}
    position = 0
    while position + _EXTRA.size <= len(extra):
        number, length = _EXTRA.unpack_from(extra, position)
        position += _EXTRA.size
        if position + length > len(extra) or (number in fields and number == _ZIP64_FIELD):
            raise _malformed(f"record '{_shown(raw_name)}' has extra fields that cannot be told apart")
        fields[number] = extra[position : position + length]
        position += length
    if _UNICODE_PATH_FIELD in fields:
        raise _malformed(f"record '{_shown(raw_name)}' has a second name, which some readers prefer")
    return fields


def _check_names(entries: list[_Entry], *, case_matters: bool) -> None:
    """Refuse names that two readers could take for one another: torch ignores case when it looks one up."""
    seen: dict[str, bytes] = {}
    for entry in entries:
        if b"\0" in entry.raw_name or not entry.raw_name or writable(entry.name) != entry.name:
            raise _malformed(f"the zip archive has a record with the impossible name '{_shown(entry.raw_name)}'")
        other = seen.setdefault(entry.name if case_matters else entry.name.casefold(), entry.raw_name)
        if other is not entry.raw_name:
            raise _malformed(
                f"the zip archive has both '{_shown(other)}' and '{_shown(entry.raw_name)}', one name to some readers"
            )


def _check_local_header(file: FileBytes, entry: _Entry, directory_start: int, methods: tuple[int, ...]) -> int:
    """Compare a local header with the directory.

    Returns:
        The offset of the record's first byte.
    """
    name_start = entry.header + _LOCAL.size
    if name_start > directory_start:
        raise _malformed(f"record '{entry.shown}' begins within the zip directory")
    fields = file.unpack(_LOCAL, entry.header)
    magic, _, flags, method, _, _, crc, compressed, size, name_length, extra_length = fields
    extra_start: int = name_start + name_length
    start: int = extra_start + extra_length
    if magic != _LOCAL_MAGIC or start > directory_start:
        raise _malformed(f"record '{entry.shown}' has no header where the zip directory says")
    if (entry.flags | flags) & _ENCRYPTED:
        raise _malformed(f"record '{entry.shown}' is encrypted, which torch.save never does")
    if entry.method not in methods or method != entry.method:
        raise _malformed(f"record '{entry.shown}' is compressed, where records are stored as they are")
    if file[name_start:extra_start] != entry.raw_name or flags != entry.flags:
        raise _malformed(
            f"record '{entry.shown}' has another name or other flags in its own header than in the zip directory"
        )
    if (entry.compressed != entry.size and not method) or start + entry.compressed > directory_start:
        raise _malformed(f"record '{entry.shown}' claims {entry.size:,} bytes, which are not there")
    wide = _wide_sizes(entry.raw_name, file[extra_start:start], [size, compressed])
    # A header written before its data leaves these open and lets the descriptor after the data say them.
    open_values = (0,) if flags & _HAS_DESCRIPTOR else ()
    sizes = zip(wide, (entry.size, entry.compressed), strict=True)
    if any(value not in (expected, *open_values) for value, expected in sizes) or crc not in (entry.crc, *open_values):
        raise _malformed(
            f"record '{entry.shown}' has another size or checksum in its own header than in the zip directory"
        )
    return start


def _after_descriptor(file: FileBytes, entry: _Entry, position: int, directory_start: int) -> int:
    """The offset after the descriptor that follows a record's data, when its flags announce one."""
    if not entry.flags & _HAS_DESCRIPTOR:
        return position
    following = file[position : min(position + 24, directory_start)]
    for magic in (_DESCRIPTOR_MAGIC, b""):
        for form in ("<I2Q", "<3I"):
            if max(entry.size, entry.compressed) >= _IN_EXTRA_32 and form == "<3I":
                continue
            descriptor = magic + struct.pack(form, entry.crc, entry.compressed, entry.size)
            if following.startswith(descriptor):
                return position + len(descriptor)
    raise _malformed(f"record '{entry.shown}' is not followed by its size and checksum")


def _misplaced(entry: _Entry, position: int) -> CheckpointError:
    if entry.header < position:
        return _malformed(f"record '{entry.shown}' overlaps the one before it")
    return _malformed(f"{entry.header - position:,} bytes before record '{entry.shown}' belong to no record")


def _shown(raw_name: bytes) -> str:
    return printable(raw_name.decode("utf-8", "surrogateescape"))


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with torch.save.", rule="F002")

"""How hostile files are made: byte by byte, and never by unpickling, importing or calling what is in them.

A row of a table says how one file is made and what must come of opening it. `conftest.py` loads this module by its path
under the name `hostile_building`, and the tables beside it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VALUES = bytes(range(16))
NO_VIEW = b"N"
"""What a storage of the legacy form has behind it when it is a view of none."""

METADATA = "torch.distributed.checkpoint.metadata"
FILESYSTEM = "torch.distributed.checkpoint.filesystem"
CANARY = "canary"
"""The file that every hostile pickle would create in the folder of its row."""

UGLY = "\x1b[31mred\x1b[0m \u202egnp.exe \u2066 <script>alert(1)</script>\nx"
"""An escape sequence, marks that turn the reading direction, HTML, and two lines."""


@dataclass(frozen=True)
class Row:
    """One hostile or broken checkpoint.

    Attributes:
        name: What is odd about it, unique in its table.
        build: Writes it into the folder of a `Forge`, and gives the path to open.
        verdict: `safe` or `unsafe` when it opens, else the rule that it is refused under, or `InputError`.
        found: A part of the sentence that refuses it; of one that is unsafe, the names that would run code.
    """

    name: str
    build: Callable[[Any], Path]
    verdict: str
    found: str = ""


# Pickles


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def numbers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(name: str) -> bytes:
    """A global by GLOBAL; the module is all but the last part."""
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def mapping(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def instance(name: str, **attributes: bytes) -> bytes:
    """An object made by NEWOBJ and BUILD."""
    return named(name) + b")\x81" + mapping(**attributes) + b"b"


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def shell(forge: Any) -> str:
    """A command that leaves the canary."""
    return f"touch {forge.folder / CANARY}"


def python(forge: Any) -> str:
    """A line of Python that leaves the canary."""
    return f"open({str(forge.folder / CANARY)!r}, 'w')"


def call(forge: Any) -> bytes:
    """os.system of that command."""
    return named("os.system") + text(shell(forge)) + b"\x85R"


def beside(forge: Any, odd: bytes) -> Path:
    """A file of torch.save with one good tensor and something else."""
    return forge.archive(forge.state(w=forge.tensor(), odd=odd), {"0": VALUES})


def before(forge: Any, odd: bytes) -> Path:
    """The same with the odd thing made, and dropped, before the state dict."""
    return forge.archive(b"\x80\x02" + odd + b"0" + forge.state(w=forge.tensor())[2:], {"0": VALUES})


def laughs(pair: bytes, depth: int = 200) -> bytes:
    """Something that holds itself twice, over and over: 2^200 things when it is walked as a tree.

    Args:
        pair: Opcodes that make one out of the object that is on the stack twice.
    """
    return b")" + (b"2" + pair) * depth


LAUGHING_TUPLE = laughs(b"\x86")
LAUGHING_LIST = laughs(b"\x86" + b"q\x63" + b"0" + b"](" + b"h\x63h\x63e")
LAUGHING_DICT = laughs(b"\x86" + b"q\x63" + b"0" + b"}(" + b"K\x00h\x63K\x01h\x63u")


def module(**members: bytes) -> bytes:
    """A pickled module of torch.nn whose submodules, by name, are given as opcodes."""
    return instance(
        "torch.nn.modules.module.Module", _parameters=b"}", _buffers=b"}", _modules=mapping(**members), training=b"\x88"
    )


# Archives


@dataclass(frozen=True)
class Entry:
    """One record of an archive, as it is claimed to be.

    Attributes:
        name: As bytes.
        data: What lies in the file.
        method: 0 for stored, 8 for deflated.
        size: What it claims to inflate to; the length of the data unless given.
        crc: What it claims; that of the data unless given.
        flags: Of both headers.
        extra: Extra fields of the local header.
        directory_extra: Extra fields of the directory.
        directory: Fields of its line in the directory that lie: compressed, size, disk, header.
    """

    name: bytes
    data: bytes
    method: int = 0
    size: int | None = None
    crc: int | None = None
    flags: int = 0
    extra: bytes = b""
    directory_extra: bytes = b""
    directory: tuple[tuple[str, int], ...] = ()


def archive(entries: Iterable[Entry], *, count: int | None = None, comment: bytes = b"", tail: bytes = b"") -> bytes:
    """A zip archive."""
    body, lines, listed = bytearray(), bytearray(), 0
    for entry in entries:
        size = len(entry.data) if entry.size is None else entry.size
        crc = zlib.crc32(entry.data) if entry.crc is None else entry.crc
        claimed = {"compressed": len(entry.data), "size": size, "disk": 0, "header": len(body), **dict(entry.directory)}
        head = (20, entry.flags, entry.method, 0, 0, crc)
        lines += struct.pack("<4s6H", b"PK\x01\x02", 20, *head[:5]) + struct.pack(
            "<3I5H2I",
            crc,
            claimed["compressed"],
            claimed["size"],
            len(entry.name),
            len(entry.directory_extra),
            0,
            claimed["disk"],
            0,
            0,
            claimed["header"],
        )
        lines += entry.name + entry.directory_extra
        local = struct.pack("<4s5H3I2H", b"PK\x03\x04", *head, len(entry.data), size, len(entry.name), len(entry.extra))
        body += local + entry.name + entry.extra + entry.data
        listed += 1
    listed = listed if count is None else count
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, listed, listed, len(lines), len(body), len(comment))
    return bytes(body + lines) + end + comment + tail


def stored(records: dict[str, bytes], root: str = "forged") -> list[Entry]:
    """Records of an archive of torch's, with their version."""
    return [Entry(f"{root}/{name}".encode(), data) for name, data in {**records, "version": b"3\n"}.items()]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def inflating(megabytes: int) -> bytes:
    """A stream that really inflates to so many megabytes of zeros, a thousandth of them long."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes + packer.flush()


def npy(header: str, data: bytes = b"", version: int = 1) -> bytes:
    """An array with a header of one's own."""
    raw = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw + data


def described(dtype: str = "<f4", shape: str = "(4,)", fortran: bool = False) -> str:
    return f"{{'descr': '{dtype}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


GOOD_ARRAY = npy(described(), VALUES)


def arrays(**members: bytes) -> bytes:
    """An .npz of stored arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, data in members.items():
            opened.writestr(f"{name}.npy", data)
    return buffer.getvalue()


# Headers and directories


def header(**tensors: Any) -> bytes:
    """A safetensors file with eight bytes of values."""
    raw = json.dumps(tensors).encode()
    return struct.pack("<Q", len(raw)) + raw + VALUES[:8]


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def sharded(forge: Any, index: str | dict[str, Any], **shards: bytes) -> Path:
    """A directory with an index and shards; the index as a whole, or only its weight_map."""
    folder = forge.folder / "sharded"
    folder.mkdir()
    for name, data in shards.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    whole = index if isinstance(index, str) else json.dumps({"metadata": {"total_size": 8}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(whole)
    return folder


def properties(dtype: str = "torch.float32") -> bytes:
    return named(f"{METADATA}.TensorProperties") + b")\x81(" + named(dtype) + b"tb"


def chunk(offsets: tuple[int, ...], sizes: tuple[int, ...]) -> bytes:
    return instance(f"{METADATA}.ChunkStorageMetadata", offsets=numbers(offsets), sizes=numbers(sizes))


def chunked(shape: tuple[int, ...], chunks: bytes, dtype: str = "torch.float32") -> bytes:
    """What the metadata says of one tensor; chunks are the opcodes of a list."""
    return instance(
        f"{METADATA}.TensorStorageMetadata", properties=properties(dtype), size=numbers(shape), chunks=chunks
    )


def listed(*chunks: bytes) -> bytes:
    return b"](" + b"".join(chunks) + b"e"


def place(name: str, offset: tuple[int, ...], file: str, start: int, length: int) -> bytes:
    """One item of the dictionary that says where chunks are."""
    key = instance(f"{METADATA}.MetadataIndex", fqn=text(name), index=b"N", offset=numbers(offset))
    stored_there = instance(
        f"{FILESYSTEM}._StorageInfo", relative_path=text(file), offset=number(start), length=number(length)
    )
    return key + stored_there


FILE = "__0_0.distcp"


def distributed(
    forge: Any,
    tensors: bytes,
    places: bytes,
    chunk_file: bytes = b"",
    *,
    planned: bytes = b"N",
    other: bytes = b"N",
    tail: bytes = b"",
) -> Path:
    """A directory of torch.distributed.checkpoint; tensors and places are the items of dictionaries, as opcodes."""
    folder = forge.folder / "distributed"
    folder.mkdir()
    metadata = b"\x80\x02" + instance(
        f"{METADATA}.Metadata",
        state_dict_metadata=b"}(" + tensors + b"u",
        planner_data=planned,
        storage_data=b"}(" + places + b"u",
        storage_meta=other,
    )
    (folder / ".metadata").write_bytes(metadata + b"." + tail)
    (folder / FILE).write_bytes(chunk_file)
    return folder


def saved_tensor(forge: Any, **options: Any) -> bytes:
    """The bytes of a file of torch.save with nothing but a tensor, as each chunk is stored."""
    storages = {"0": options.pop("values", VALUES)}
    path = forge.archive(b"\x80\x02" + forge.tensor(**options) + b".", storages)
    data = path.read_bytes()
    path.unlink()
    return data


def colliding_pairs(count: int) -> list[tuple[int, int]]:
    """Pairs of integers with one hash: Python's hash of a tuple of integers has no secret, and can be run backwards."""
    first, second, third = 11400714785074694791, 14029467366897019727, 2870177450012600261  # of xxHash
    wrap = (1 << 64) - 1

    def after(state: int, value: int) -> int:
        return state + value * second & wrap

    # What the state is to be before the rotation that follows the second integer.
    target = after((after(third, 1) << 31 | after(third, 1) >> 33) * first & wrap, 1)
    inverse = pow(second, -1, 1 << 64)
    pairs: list[tuple[int, int]] = []
    size = 1
    while len(pairs) < count:
        size += 1
        state = after(third, size)
        state = (state << 31 & wrap | state >> 33) * first & wrap
        other = (target - state) * inverse & wrap
        if other < (1 << 61) - 1:
            pairs.append((size, other))
    assert len(set(map(hash, pairs))) == 1
    return pairs

"""Changes to a file that keep enough of its form for the change to be reached.

A bit flipped in an archive fails at its checksum, and a digit in a header fails at its length. So an archive is taken
apart and put together again, a pickle is changed opcode by opcode, a header as JSON, and lengths are made to fit. Each
function gives other bytes for the same bytes and generator; what it cannot take apart it changes blindly.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from random import Random
from typing import Any

from bundling import pack, unpack

_MOST_COPIED = 50_000  # characters; copies of copies would soon fill all memory
_MOST_INFLATED = 1 << 20

Mutate = Callable[[bytes, Random], bytes]

_BOUNDARIES = (
    *(0, 1, 2, 7, 8, 9, -1, -2, 16, 63, 64, 65, 255, 256, 4096, 65535, 65536),
    *(sign * 2**power + step for power in (31, 32, 62, 63, 64) for step in (-1, 0, 1) for sign in (1, -1)),
    *(10**4299, 2**1000),
)
_TEXTS = (
    *("", "a", "0", ".", "..", "../up", "/root", "a/b", "module.", "state_dict", "model_ema", "optimizer", "\0", "\n"),
    *("\x1b[31m", "‮", "é", "\ud800", "x" * 300, "_parameters", "_modules", "_buffers", "_orig_mod.module.a", "conj"),
)
_GLOBALS = (
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"),
    *("torch._tensor _rebuild_from_type_v2", "torch._utils _rebuild_sparse_tensor", "torch._utils _rebuild_qtensor"),
    *("torch._utils _rebuild_parameter", "torch.serialization _get_layout", "torch Size", "torch FloatStorage"),
    *("torch ComplexFloatStorage", "torch QUInt8Storage", "torch.storage UntypedStorage", "torch bfloat16"),
    *("collections OrderedDict", "collections Counter", "builtins set", "builtins dict", "__builtin__ getattr"),
    *("torch float32", "torch uint16", "torch per_tensor_affine", "torch per_channel_affine", "posix system"),
    *("torch._utils _rebuild_meta_tensor_no_storage", "torch FloatTensor", "torch.nn.modules.linear Linear"),
    *("torch.distributed.checkpoint.metadata Metadata", "torch.distributed.checkpoint.metadata MetadataIndex"),
    *("torch.distributed.checkpoint.metadata TensorStorageMetadata", "copyreg _reconstructor"),
    *("torch.distributed.checkpoint.metadata ChunkStorageMetadata", "__torch__.a Module"),
)
_PLAIN_OPCODES = (
    *(b"(", b".", b"0", b"1", b"2", b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"a", b"e", b"\x90", b"b"),
    *(b"d", b"l", b"t", b"\x91", b"\x85", b"\x86", b"\x87", b"s", b"u", b"o", b"R", b"\x81", b"\x92", b"Q", b"\x93"),
    *(b"\x94", b"q\0", b"h\0", b"h\1", b"I01\n", b"I00\n", b"F1e999\n", b"Fnan\n", b"L-0x1L\n", b"\x82\1", b"\x97"),
    *(b"S'a\\x00'\n", b"V\\ud800\n", b"Pa\n", b"U\1\xff", b"G\x7f\xf8\0\0\0\0\0\0", b"p-1\n", b"g0\n", b"C\1a"),
    *(b"(ia\nb\n", b"}\x94h\0h\0s", b"]\x94h\0a", b"\x96\1\0\0\0\0\0\0\0a", b"h\0h\0\x86", b"2\x86", b"2a", b"h\0b"),
)


def blind(data: bytes, random: Random) -> bytes:
    """Bytes set, flipped, cut out, put in or repeated, or a number made one of the boundaries."""
    changed = bytearray(data or b"\0")
    position = random.randrange(len(changed))
    length = min(len(changed) - position, 1 << random.randrange(8))
    match random.randrange(6):
        case 0:
            changed[position] = random.randrange(256)
        case 1:
            changed[position] ^= 1 << random.randrange(8)
        case 2:
            del changed[position : position + length]
        case 3:
            changed[position:position] = random.randbytes(random.randint(1, 8))
        case 4:
            changed[position:position] = changed[position : position + length]
        case _:
            width = random.choice((1, 2, 4, 8))
            number = random.choice(_BOUNDARIES) % (1 << 8 * width)
            changed[position : position + width] = number.to_bytes(width, random.choice(("little", "little", "big")))
    return bytes(changed)


def text(data: bytes, random: Random) -> bytes:
    """Words of a text put elsewhere, numbers made boundaries, and runs of characters made long."""
    words = re.findall(rb"\w+|\W", data)
    if not words or random.random() < 0.2:
        return blind(data, random)
    index, other = random.randrange(len(words)), random.randrange(len(words))
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    match random.randrange(6):
        case 0:
            words[index] = words[other]
        case 1:
            words.insert(index, words[other])
        case 2:
            del words[index]
        case 3:
            words[index] *= min(1 << random.randrange(13), _MOST_COPIED // len(words[index]) + 1)
        case 4:
            words[index] = random.choice(_TEXTS).encode("utf-8", "replace")
        case _:
            words[random.choice(numbers) if numbers else index] = str(random.choice(_BOUNDARIES)).encode()
    return b"".join(words)


# Pickles


def pickled(data: bytes, random: Random) -> bytes:
    """The opcodes of a pickle left out, repeated, moved, put in, or given another argument."""
    opcodes, rest = split_opcodes(data)
    if not opcodes:
        return blind(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        _change_opcodes(opcodes, random)
    return b"".join(opcodes) + rest


def split_opcodes(data: bytes) -> tuple[list[bytes], bytes]:
    """The opcodes of the first pickle, with their arguments, as far as they can be told apart, and what follows."""
    positions: list[int] = []
    frames: set[int] = set()
    end = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for opcode, _, position in pickletools.genops(data):
                assert position is not None
                if opcode.name == "FRAME":
                    frames.add(position)
                positions.append(position)
                end = position + (1 if opcode.name == "STOP" else 0)
        except Exception:
            end = positions.pop() if positions else 0
    pairs = zip(positions, (*positions, end)[1:], strict=False)
    # A frame says how long it is, which would end every change at once.
    return [data[start:stop] for start, stop in pairs if start not in frames], data[end:]


def _change_opcodes(opcodes: list[bytes], random: Random) -> None:
    index = random.randrange(len(opcodes) + 1)
    other = random.randrange(len(opcodes) + 1)
    length = 1 << random.randrange(6)
    match random.randrange(10):
        case 0:
            del opcodes[index : index + random.choice((1, length))]
        case 1:
            opcodes[index:index] = opcodes[other : other + length]
        case 2:
            opcodes[index : index + length] = opcodes[other : other + length]
        case 3:
            opcodes[index:index] = opcodes[index : index + length] * random.choice((1, 2, 50))
        case 4:
            opcodes.insert(index, random.choice(_PLAIN_OPCODES))
        case 5:
            opcodes.insert(index, _new_argument(random))
        case _:
            _change_argument(opcodes, random)


def _new_argument(random: Random) -> bytes:
    match random.randrange(3):
        case 0:
            return _number(random.choice(_BOUNDARIES), random)
        case 1:
            return _string(random.choice(_TEXTS))
        case _:
            return _global(random.choice(_GLOBALS))


def _change_argument(opcodes: list[bytes], random: Random) -> None:
    """Give a number, a text, a global, or a look-up of the memo another of its kind."""
    kinds = random.choice((b"KMJ\x8a", b"KMJ\x8a", b"X\x8cU", b"c\x93", b"hjg", b"NR}])\x89\x88"))
    places = [index for index, opcode in enumerate(opcodes) if opcode[0] in kinds]
    if not places:
        return
    place = random.choice(places)
    alike = opcodes[random.choice(places)]
    if kinds[0] == ord("K"):
        number = random.choice(_BOUNDARIES)
        if random.random() < 0.3 and (value := number_of(opcodes[place])) is not None:
            number = value + random.choice((-1, 1, value))
        opcodes[place] = random.choice((alike, _number(number, random)))
    elif kinds[0] == ord("X"):
        opcodes[place] = random.choice((alike, alike, _string(random.choice(_TEXTS))))
    elif kinds[0] == ord("c"):
        opcodes[place] = random.choice((alike, _global(random.choice(_GLOBALS))))
    elif kinds[0] == ord("h"):
        opcodes[place] = random.choice((alike, b"h" + bytes([random.randrange(256)])))
    else:
        opcodes[place] = random.choice((alike, random.choice(_PLAIN_OPCODES)))


def number_of(opcode: bytes) -> int | None:
    """The number that an opcode of protocol 2 pushes."""
    if opcode[:1] in (b"K", b"M"):
        return int.from_bytes(opcode[1:], "little")
    if opcode[:1] == b"J":
        return int.from_bytes(opcode[1:], "little", signed=True)
    return int.from_bytes(opcode[2:], "little", signed=True) if opcode[:1] == b"\x8a" else None


def _number(value: int, random: Random) -> bytes:
    if 0 <= value < 256 and random.random() < 0.8:
        return b"K" + bytes([value])
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    if len(raw) < 256 and random.random() < 0.9:
        return b"\x8a" + bytes([len(raw)]) + raw
    return random.choice((f"I{hex(value)}\n", f"L{value}L\n", f"L{hex(value)}L\n")).encode()


def _string(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(value: str) -> bytes:
    return b"c" + value.replace(" ", "\n").encode() + b"\n"


def legacy(data: bytes, random: Random) -> bytes:
    """One of the five pickles, most often that of the object, or the storages behind them."""
    pickles: list[bytes] = []
    rest = data
    while len(pickles) < 5:
        opcodes, behind = split_opcodes(rest)
        if not opcodes or opcodes[-1] != b".":
            break
        pickles.append(rest[: len(rest) - len(behind)])
        rest = behind
    if not pickles or random.random() < 0.1:
        return blind(data, random)
    chosen = random.choice((3, 3, 3, 3, 4, 5, *range(5)))
    if chosen < len(pickles):
        pickles[chosen] = pickled(pickles[chosen], random)
    else:
        rest = blind(rest, random)
    return b"".join(pickles) + rest


# JSON


def json_text(data: bytes, random: Random) -> bytes:
    """A value of a JSON document replaced, moved, left out or nested, or the text of it changed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return text(data, random)
    if random.random() < 0.2:
        return text(data, random)
    try:
        for _ in range(random.choice((1, 1, 2, 4))):
            value = _changed_json(value, random)
        return json.dumps(value, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return text(data, random)


def _changed_json(root: Any, random: Random) -> Any:
    places = list(_places_in(root))
    if not places:
        return _json_value(root, random)
    holder, key = random.choice(places)
    match random.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice((random.choice(_TEXTS), f"{key}.", random.choice(list(holder))))] = holder[key]
        case 1:
            holder.insert(key, holder[key])
        case 2:
            other, other_key = random.choice(places)
            copied = json.dumps(other[other_key]) if other_key in _keys(other) else "null"
            holder[key] = json.loads(copied) if len(copied) < _MOST_COPIED else None
        case _:
            holder[key] = _json_value(holder[key], random)
    return root


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places_in(value: Any) -> Any:
    for key in list(_keys(value)) if isinstance(value, dict | list) else ():
        yield value, key
        yield from _places_in(value[key])


def _json_value(value: Any, random: Random) -> Any:
    if isinstance(value, int) and random.random() < 0.4:
        return value + random.choice((-1, 1, 8, value))
    times = random.choice((2, 70)) if len(json.dumps(value)) < _MOST_COPIED / 70 else 1
    return random.choice(
        (
            *(random.choice(_BOUNDARIES), random.choice(_TEXTS), random.choice(_TEXTS), None, True, 1.5, 1e400),
            *([], {}, [value], {"as_int": value}, [value] * times, "F16", "F4", "C64", [0, 2**62]),
        )
    )


def safetensors(data: bytes, random: Random) -> bytes:
    """The header as JSON, its length made to fit, or the values behind it."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) or random.random() < 0.1:
        return blind(data, random)
    header, values = data[8 : 8 + length], data[8 + length :]
    if random.random() < 0.1:
        values = blind(values, random)
    else:
        header = json_text(header, random)
    return struct.pack("<Q", len(header)) + header + values


# Archives


def archive(data: bytes, random: Random) -> bytes:
    """The records of an archive, which is put together again with checksums that fit, or its headers."""
    if random.random() < 0.2:
        return _zip_fields(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            infos = opened.infolist()
            if sum(info.file_size for info in infos) > _MOST_INFLATED:
                return _zip_fields(data, random)
            records = [(info.filename, opened.read(info), info.compress_type) for info in infos]
    except Exception:
        return _zip_fields(data, random)
    if not records:
        return blind(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _change_records(records, random)
    rebuilt = _zipped(records)
    # zipfile writes no name that is not Unicode.
    return rebuilt.replace("é".encode(), b"\xff\xfe") if random.random() < 0.1 else rebuilt


def _change_records(records: list[tuple[str, bytes, int]], random: Random) -> None:
    place = random.randrange(len(records))
    described = [index for index, record in enumerate(records) if _mutator_of(record[0], record[1]) is not blind]
    if described and random.random() < 0.8:
        place = random.choice(described)
    name, content, method = records[place]
    match random.randrange(12):
        case 0 if len(records) > 1:
            del records[place]
        case 1:
            records.append((_renamed(name, records, random), content, method))
        case 2:
            records[place] = (_renamed(name, records, random), content, method)
        case 3:
            records[place] = (name, content, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
        case 4:
            records.insert(0, records.pop(place))
        case _:
            records[place] = (name, _mutator_of(name, content)(content, random), method)


def _renamed(name: str, records: list[tuple[str, bytes, int]], random: Random) -> str:
    folder, _, inside = name.partition("/")
    other = random.choice(records)[0]
    chosen = (f"{folder}/{random.choice(_TEXTS)}", f"{folder}/{inside}{random.choice(_TEXTS)}", f"x{name}")
    news = ("data.pkl", "version", "byteorder", "constants.pkl", "code/a.py", "code/é.py", ".data/extern_modules")
    return random.choice((*chosen, f"{folder}/{random.choice(news)}", other, name.upper(), f"{other[:-4]}b.npy"))


def _mutator_of(name: str, content: bytes) -> Mutate:
    if name.endswith(".npy") or content.startswith(b"\x93NUMPY"):
        return array
    if name.endswith(".pkl") or content[:1] == b"\x80":
        return pickled
    if name.endswith(".json"):
        return json_text
    if content.startswith(b"PK\3\4"):
        return archive
    return text if name.endswith((".py", "version", "byteorder")) else blind


def _zipped(records: list[tuple[str, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(buffer, "w") as rebuilt:
            for name, content, method in records:
                safe = name.encode("utf-8", "replace").decode()[:1000]
                rebuilt.writestr(zipfile.ZipInfo(safe or "empty"), content, method)
    return buffer.getvalue()


_HEADERS = {
    b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\1\2": ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (34, 2), (42, 4)),
    b"PK\5\6": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\6\6": ((4, 8), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\6\7": ((4, 4), (8, 8), (16, 4)),
}


def _zip_fields(data: bytes, random: Random) -> bytes:
    """A field of a header, alike in each header that has it: sizes, counts, offsets, flags."""
    magic = random.choice(list(_HEADERS))
    places = [found.start() for found in re.finditer(re.escape(magic), data)]
    if not places or random.random() < 0.1:
        return blind(data, random)
    offset, width = random.choice(_HEADERS[magic])
    changed = bytearray(data)
    place = random.choice(places) + offset
    old = int.from_bytes(changed[place : place + width], "little")
    new = random.choice((random.choice(_BOUNDARIES), old + 1, old - 1, 0, 2 ** (8 * width) - 1)) % (1 << 8 * width)
    changed[place : place + width] = new.to_bytes(width, "little")
    if old and random.random() < 0.5:
        before, after = (old % 2**32).to_bytes(4, "little"), (new % 2**32).to_bytes(4, "little")
        for other in (*re.finditer(rb"PK\x01\x02", data), *re.finditer(rb"PK\x03\x04", data)):
            part = changed[other.start() : other.start() + 46]
            changed[other.start() : other.start() + len(part)] = part.replace(before, after)
    return bytes(changed)


def array(data: bytes, random: Random) -> bytes:
    """The header of a numpy array as text, its length made to fit, or the values behind it."""
    if len(data) < 12 or random.random() < 0.1:
        return blind(data, random)
    width = 2 if data[6] == 1 else 4
    length = int.from_bytes(data[8 : 8 + width], "little")
    header, values = data[8 + width : 8 + width + length], data[8 + width + length :]
    match random.randrange(8):
        case 0:
            values = blind(values, random)
        case 1:
            kind = random.choice((b"<f4", b">f8", b"|b1", b"<c16", b"|O", b"<U9", b"<f16", b"?", b"<M8[ns]"))
            header = re.sub(rb"'descr': '[^']*'", b"'descr': '" + kind + b"'", header)
        case 2:
            shape = ", ".join(str(random.choice(_BOUNDARIES)) for _ in range(random.choice((0, 1, 2, 3, 70))))
            header = re.sub(rb"\(.*\)", b"(" + shape.encode() + b")", header)
        case 3:
            header = header.replace(b"False", b"True")
        case _:
            header = text(header, random)
    return data[:8] + (len(header) % (1 << 8 * width)).to_bytes(width, "little") + header + values


# Checkpoints of several files


def distributed(data: bytes, random: Random) -> bytes:
    """The metadata as a pickle, or the archives of the chunks, whose places in the metadata are made to fit."""
    files = unpack(data, ".metadata")
    name = random.choice((".metadata", *files))
    if name.startswith(".") or name not in files or random.random() < 0.1:
        first = next(iter(files))
        files[first] = pickled(files[first], random)
        return pack(files)
    parts = re.split(rb"(?<=PK\x05\x06.{18})(?=PK\x03\x04)", files[name], flags=re.DOTALL)
    chosen = random.randrange(len(parts))
    old_starts = _starts(parts)
    old_length = len(parts[chosen])
    parts[chosen] = archive(parts[chosen], random)
    moved = {old_length: len(parts[chosen]), **dict(zip(old_starts, _starts(parts), strict=True))}
    files[name] = b"".join(parts)
    opcodes, rest = split_opcodes(files[".metadata"]) if ".metadata" in files else ([], b"")
    if opcodes:
        fitted = []
        for opcode in opcodes:
            number = number_of(opcode)
            fitted.append(opcode if not number or number not in moved else b"J" + struct.pack("<i", moved[number]))
        files[".metadata"] = b"".join(fitted) + rest
    return pack(files)


def _starts(parts: list[bytes]) -> list[int]:
    return [sum(map(len, parts[:index])) for index in range(len(parts))]


def indexed(data: bytes, random: Random) -> bytes:
    """The index as JSON, or one of the files that it names."""
    files = unpack(data, "model.safetensors.index.json")
    first = next(iter(files))
    name = random.choice((first, *files))
    if name == first:
        files[name] = json_text(files[name], random)
    elif files[name].startswith(b"PK"):
        files[name] = archive(files[name], random)
    else:
        files[name] = safetensors(files[name], random)
    return pack(files)

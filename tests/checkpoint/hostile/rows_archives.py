"""Archives of torch.save that torch itself lets pass, crashes on, or reads in two ways."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_building import (
    UGLY,
    VALUES,
    Entry,
    Row,
    archive,
    before,
    beside,
    colliding_pairs,
    deflated,
    named,
    number,
    stored,
    text,
)


def raw(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.file(make(forge))


def entries(forge: Any, **changes: Entry) -> list[Entry]:
    """The records of a good file, some of them replaced."""
    good = {
        "pickle": Entry(b"forged/data.pkl", forge.state(w=forge.tensor())),
        "storage": Entry(b"forged/data/0", VALUES),
        "version": Entry(b"forged/version", b"3\n"),
    }
    return list({**good, **changes}.values())


def tensors(*, values: bytes = VALUES, **options: Any) -> Callable[[Any], Path]:
    return lambda forge: forge.archive(forge.state(w=forge.tensor(**options)), {"0": values})


def many(count: int, make: Callable[[Any, int], bytes], values: bytes = VALUES) -> Callable[[Any], Path]:
    return lambda forge: forge.archive(forge.state(**{f"w{n}": make(forge, n) for n in range(count)}), {"0": values})


def flipped(old: bytes, new: bytes) -> Callable[[Any], Path]:
    """A good file with a byte changed where it lies first."""

    def build(forge: Any) -> Path:
        path = beside(forge, b"N")
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new, 1))
        return path

    return build


def overlapping(_: Any) -> bytes:
    """Many records that share their bytes, as in the smallest zip bombs: the second lies within the first."""
    inner = Entry(b"forged/data/1", VALUES)
    whole = archive([inner])[: 30 + len(inner.name) + len(VALUES)]
    outer = Entry(b"forged/data.pkl", whole)
    start = 30 + len(outer.name)
    data = archive([outer, Entry(b"forged/data/1", b"", size=16, directory=(("header", start), ("compressed", 16)))])
    # The local header that was written for the second is taken out again.
    left = 30 + len(inner.name)
    at = data.index(b"PK\x01\x02")
    return data[: at - left] + data[at:-6] + struct.pack("<IH", at - left, 0)


def wide(forge: Any, value: int) -> bytes:
    """A size that is said twice: in its field and in a zip64 field of another value."""
    field = struct.pack("<2HQ", 1, 8, value)
    return archive(
        entries(
            forge, storage=Entry(b"forged/data/0", VALUES, directory=(("size", 0xFFFFFFFF),), directory_extra=field)
        )
    )


def doll(forge: Any) -> bytes:
    """An archive that holds an archive, and so on."""
    data = archive(entries(forge))
    for _ in range(40):
        data = archive([Entry(b"forged/data.pkl", data), Entry(b"forged/version", b"3\n")])
    return data


def other_path(forge: Any) -> bytes:
    name = b"forged/data.pkl"
    field = b"\x01" + struct.pack("<I", zlib.crc32(name)) + b"other/data.pkl"
    extra = struct.pack("<2H", 0x7075, len(field)) + field
    return archive(entries(forge, pickle=Entry(name, forge.state(w=forge.tensor()), directory_extra=extra)))


def with_colliding_shapes(forge: Any) -> Path:
    shapes = [(*pair, 0) for pair in colliding_pairs(10_000)]
    return many(len(shapes), lambda f, n: f.tensor(shape=shapes[n], stride=(1, 1, 1)))(forge)


def with_colliding_strides(forge: Any) -> Path:
    strides = colliding_pairs(10_000)
    return many(len(strides), lambda f, n: f.tensor(shape=(1, 1), stride=strides[n]))(forge)


ROWS = [
    Row("a benign archive", lambda f: beside(f, b"N"), "safe"),
    Row(
        "big-endian, which crashes torch's meta mode",
        lambda f: f.archive(f.state(w=f.tensor()), {"0": VALUES}, byteorder=b"big"),
        "safe",
    ),
    Row(
        "middle-endian",
        lambda f: f.archive(f.state(w=f.tensor()), {"0": VALUES}, byteorder=b"middle"),
        "F002",
        "neither little nor big",
    ),
    Row("a size out of range", tensors(shape=(2**40,)), "F002", "reaches to byte 4,398,046,511,104"),
    Row("a negative stride", tensors(stride=(-1,)), "F002", "not natural numbers"),
    Row("a negative size", tensors(shape=(-4,)), "F002", "not natural numbers"),
    Row("a missing record", lambda f: f.archive(f.state(w=f.tensor())), "F002", "which the zip archive does not have"),
    Row(
        "a deflated record",
        raw(lambda f: archive(entries(f, storage=Entry(b"forged/data/0", deflated(VALUES), method=8, size=16)))),
        "F002",
        "is compressed",
    ),
    Row(
        "a declared size beyond the file",
        raw(
            lambda f: archive(
                entries(
                    f, storage=Entry(b"forged/data/0", VALUES, directory=(("size", 1 << 30), ("compressed", 1 << 30)))
                )
            )
        ),
        "F002",
        "which are not there",
    ),
    Row(
        "a declared size that runs into the next record",
        raw(
            lambda f: archive(
                entries(f, storage=Entry(b"forged/data/0", VALUES, directory=(("size", 20), ("compressed", 20))))
            )
        ),
        "F002",
        "another size",
    ),
    Row("a storage longer than its record", tensors(elements=5), "F002", "where the pickle says 20"),
    Row("a flipped byte in the pickle", flipped(b"cpu", b"cpv"), "F002", "does not have its checksum"),
    Row("a flipped byte in the values, which digests are for", flipped(VALUES, VALUES[::-1]), "safe"),
    Row(
        "a wrong checksum of the pickle",
        raw(lambda f: archive(entries(f, pickle=Entry(b"forged/data.pkl", f.state(w=f.tensor()), crc=7)))),
        "F002",
        "does not have its checksum",
    ),
    Row(
        "the pickle twice",
        raw(lambda f: archive([*entries(f), Entry(b"forged/data.pkl", b"\x80\x02}.")])),
        "F002",
        "one name to some readers",
    ),
    Row(
        "the pickle twice by case",
        raw(lambda f: archive([*entries(f), Entry(b"forged/DATA.PKL", b"\x80\x02}.")])),
        "F002",
        "one name to some readers",
    ),
    Row("trailing bytes", raw(lambda f: archive(entries(f), tail=b"#!/bin/sh\n")), "F002", "bytes after its end"),
    Row("a comment after the end", raw(lambda f: archive(entries(f), comment=b"PK\x05\x06")), "F002", "after its end"),
    Row(
        "512 MB through bytearray",
        lambda f: beside(f, named("builtins.bytearray") + number(512 << 20) + b"\x85R"),
        "F003",
        "a buffer of 536,870,912 bytes",
    ),
    Row(
        "2^60 bytes through bytes",
        lambda f: before(f, named("builtins.bytes") + number(1 << 60) + b"\x85R"),
        "F003",
        "a buffer of",
    ),
    Row(
        "2^40 elements through a tensor class",
        lambda f: before(f, named("torch.FloatTensor") + number(1 << 40) + b"\x85R"),
        "F003",
        "a buffer of",
    ),
    Row("2^40 elements by a stride of zero", tensors(shape=(2**40,), stride=(0,)), "F003", "out of 16 stored"),
    Row(
        "as many elements by a stride of zero as may be",
        many(
            16,
            lambda f, n: f.tensor(
                storage_class="torch ByteStorage", elements=16, offset=n % 16, shape=(2**26 - n,), stride=(0,)
            ),
        ),
        "safe",
    ),
    Row(
        "one expanded tensor by 8,000 names",
        many(8_000, lambda f, _: f.tensor(storage_class="torch ByteStorage", elements=16, shape=(2**26,), stride=(0,))),
        "safe",
    ),
    Row(
        "26 dimensions by strides of zero",
        tensors(storage_class="torch ByteStorage", elements=16, shape=(2,) * 26, stride=(0,) * 26),
        "safe",
    ),
    Row("64 dimensions with strides of 2^62", tensors(shape=(1,) * 63 + (4,), stride=(2**62,) * 63 + (0,)), "safe"),
    Row("an empty tensor with sizes of 2^62", tensors(shape=(2**62, 0, 2**62), stride=(2**62,) * 3), "safe"),
    Row("shapes of one hash", with_colliding_shapes, "safe"),
    Row("strides of one hash", with_colliding_strides, "safe"),
    Row("overlapping records", raw(overlapping), "F002", "overlaps the one before it"),
    Row("zip64 sizes that contradict the local header", raw(lambda f: wide(f, 1 << 40)), "F002", "there"),
    Row("zip64 sizes that contradict each other", raw(lambda f: wide(f, 15)), "F002", "claims 15 bytes"),
    Row(
        "encrypted",
        raw(lambda f: archive(entries(f, storage=Entry(b"forged/data/0", VALUES, flags=1)))),
        "F002",
        "is encrypted",
    ),
    Row(
        "a record on another disk",
        raw(lambda f: archive(entries(f, storage=Entry(b"forged/data/0", VALUES, directory=(("disk", 1),))))),
        "F002",
        "on another disk",
    ),
    Row(
        "on two disks",
        raw(lambda f: archive(entries(f))[:-18] + struct.pack("<2H", 1, 1) + archive(entries(f))[-14:]),
        "F002",
        "in one piece",
    ),
    Row("2^16 records claimed, three there", raw(lambda f: archive(entries(f), count=65_535)), "F002", "says 65,535"),
    Row("a record claimed, three there", raw(lambda f: archive(entries(f), count=1)), "F002", "where its end says 1"),
    Row("no records", raw(lambda _: archive([])), "F002", "0 names at its root"),
    Row(
        "a record that climbs",
        raw(lambda f: archive([*entries(f), Entry(b"forged/../../etc/passwd", b"x")])),
        "F002",
        "which torch.save never writes",
    ),
    Row("a storage that climbs", lambda f: f.archive(f.state(w=f.tensor(key="../version"))), "F002", "does not have"),
    Row(
        "an absolute record",
        raw(lambda f: archive([*entries(f), Entry(b"/etc/passwd", b"x")])),
        "F002",
        "2 names at its root",
    ),
    Row(
        "a record of another drive",
        raw(lambda f: archive([*entries(f), Entry(b"C:\\run.exe", b"x")])),
        "F002",
        "2 names at its root",
    ),
    Row(
        "a name with NUL",
        raw(lambda f: archive([*entries(f), Entry(b"forged/data.pkl\0.txt", b"x")])),
        "F002",
        "impossible name",
    ),
    Row("a second name in the extra field", raw(other_path), "F002", "a second name"),
    Row("a directory in a directory in a directory", raw(doll), "F002", "the pickle"),
    Row(
        "names that turn the terminal around", lambda f: f.archive(f.state(**{UGLY: f.tensor()}), {"0": VALUES}), "safe"
    ),
    Row("a storage whose name turns the terminal around", tensors(key=UGLY), "F002", "\\x1b[31mred"),
    Row(
        "a record whose name turns the terminal around",
        raw(lambda f: archive([*entries(f), Entry(f"forged/{UGLY}".encode(), b"x")])),
        "F002",
        "\\x1b[31mred",
    ),
    Row(
        "a name of a million prefixes",
        lambda f: f.archive(f.state(**{"model." * 1_000_000 + "w": f.tensor()}), {"0": VALUES}),
        "safe",
    ),
    Row(
        "a long key over many others",
        lambda f: f.archive(
            b"\x80\x02}("
            + text("k" * 1_000_000)
            + b"}("
            + text("w")
            + f.tensor()
            + b"".join(text(str(n)) + b"N" for n in range(20_000))
            + b"uu.",
            {"0": VALUES},
        ),
        "safe",
    ),
    Row(
        "many keys beside many sets of weights",
        lambda f: f.archive(
            b"\x80\x02}("
            + b"".join(text(f"s{n}") + b"}(" + text("w") + f.tensor() + b"u" for n in range(60))
            + b"".join(text(f"key number {n}") + b"N" for n in range(100_000))
            + b"u.",
            {"0": VALUES},
        ),
        "safe",
    ),
    Row(
        "a long key beside many sets of weights",
        lambda f: f.archive(
            b"\x80\x02}("
            + b"".join(text(f"s{n}") + b"}(" + text("w") + f.tensor() + b"u" for n in range(60))
            + text("k" * 10_000_000)
            + b"Nu.",
            {"0": VALUES},
        ),
        "safe",
    ),
    Row(
        "a list that holds another 500,000 times",
        lambda f: f.archive(b"\x80\x02]q\x00Na0](" + b"h\x00" * 500_000 + b"e.", {}),
        "F001",
        "a pickled list",
    ),
    Row(
        "more sets of tensors than anyone saves",
        lambda f: f.archive(b"\x80\x02](" + (b"}" + text("w") + f.tensor() + b"s") * 65 + b"e.", {"0": VALUES}),
        "F003",
        "more than 64 sets",
    ),
    Row(
        "a version that is no number",
        raw(lambda f: archive(entries(f, version=Entry(b"forged/version", b"\x1b[2J")))),
        "F002",
        "\\x1b[2J",
    ),
    Row("cut short", raw(lambda f: archive(entries(f))[:-1]), "F002", "cut short"),
    Row(
        "no version",
        raw(lambda f: archive(stored({"data.pkl": f.state(w=f.tensor()), "data/0": VALUES})[:-1])),
        "F002",
        "has no 'version'",
    ),
]

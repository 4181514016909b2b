"""TorchScript, torch.package, torch.export and numpy archives: programs, bombs, and descriptions that lie."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_building import (
    GOOD_ARRAY,
    UGLY,
    VALUES,
    Entry,
    Row,
    archive,
    arrays,
    call,
    deflated,
    described,
    get,
    inflating,
    instance,
    mapping,
    named,
    npy,
    put,
    python,
    stored,
)

GIGABYTES = 3 << 10
"""Megabytes of the largest bombs: below 4 GB, so that their sizes need no zip64."""


def program(forge: Any, *code: Entry, root: bytes | None = None, **records: bytes) -> Path:
    """What torch.jit.save would write."""
    pickle = b"\x80\x02" + (instance("__torch__.M", w=forge.tensor()) if root is None else root) + b"."
    described_ = stored({"data.pkl": pickle, "data/0": VALUES, "constants.pkl": b"\x80\x02).", **records})
    return forge.file(archive([*described_, *code]), "program.pt")


SOURCE = b'class M(Module):\n  __parameters__ = ["w", ]\n  __buffers__ = []\n'


def code(data: bytes, size: int, crc: int | None = None, name: bytes = b"forged/code/__torch__.py") -> Entry:
    return Entry(name, data, method=8, size=size, crc=crc)


def packed_source(source: bytes, name: bytes = b"forged/code/__torch__.py") -> Entry:
    return code(deflated(source), len(source), zlib.crc32(source), name)


def package(forge: Any, **records: bytes) -> Path:
    """What torch.package would write; a double underscore in a name stands for a slash, a single one for a dot."""
    pickle = forge.state(w=forge.tensor())
    named_records = {name.replace("__", "/").replace("_", "."): data for name, data in records.items()}
    return forge.file(
        archive(
            stored(
                {
                    ".data/extern_modules": b"torch\n",
                    ".data/0.storage": VALUES,
                    "model/weights.pkl": pickle,
                    **named_records,
                }
            )
        ),
        "package.pt",
    )


def flipped_package(forge: Any) -> Path:
    path = package(forge)
    path.write_bytes(path.read_bytes().replace(b"cpu", b"cpv", 1))
    return path


def crowded_package(forge: Any) -> Path:
    """Many sets of weights, and many records beside each."""
    pickle = b"\x80\x02](" + (b"}" + forge.text("w") + forge.tensor() + b"s") * 60 + b"e."
    records = {f"model/{n}.pkl": pickle for n in range(40)} | {f"res/{n}": b"" for n in range(50_000)}
    entries = stored({".data/extern_modules": b"torch\n", ".data/0.storage": VALUES, **records})
    return forge.file(archive(entries), "package.pt")


META = {
    "dtype": 7,
    "layout": 7,
    "sizes": [{"as_int": 4}],
    "strides": [{"as_int": 1}],
    "storage_offset": {"as_int": 0},
}


def exported(
    forge: Any, *, raw: bytes | None = None, path: str = "weight_0", pickled: bool = False, **meta: Any
) -> Path:
    """What torch.export.save would write."""
    entry = {"path_name": path, "is_param": True, "use_pickle": pickled, "tensor_meta": {**META, **meta}}
    config = json.dumps({"config": {"w": entry}}).encode() if raw is None else raw
    records = {
        "archive_format": b"pt2",
        "data/weights/model_weights_config.json": config,
        "data/weights/weight_0": VALUES,
        "models/model.json": b"{}",
    }
    return forge.file(archive(stored(records)), "model.pt2")


def old_export(forge: Any) -> Path:
    """The form before torch 2.8, a whole file of torch.save within, with a call in its pickle."""
    inner = forge.archive(forge.state(w=forge.tensor(), odd=call(forge)), {"0": VALUES}).read_bytes()
    records = {"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": inner, "version": b"1"}
    return forge.file(archive([Entry(name.encode(), data) for name, data in records.items()]), "model.pt2")


def numpy(make: Callable[[Any], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.file(make(forge), "arrays.npz")


def packed(data: bytes, size: int, name: bytes = b"w.npy") -> bytes:
    return archive([Entry(name, data, method=8, size=size, crc=0)])


def bomb(megabytes: int, claimed: int, shape: int) -> bytes:
    """An array that really inflates to so many megabytes."""
    head = npy(described("|u1", f"({shape},)"))
    begin = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = begin.compress(head) + begin.flush(zlib.Z_FULL_FLUSH) + inflating(megabytes)
    return packed(stream, len(head) + claimed)


def turned(forge: Any) -> bytes:  # noqa: ARG001
    """60 MB in the other byte order and the other order of dimensions, in 60 KB."""
    head = npy(described(">f4", "(3840, 4096)", fortran=True))
    begin = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = begin.compress(head) + begin.flush(zlib.Z_FULL_FLUSH) + inflating(60)
    return packed(stream, len(head) + (60 << 20))


def object_array(forge: Any) -> bytes:
    return npy(described("|O", "(1,)"), b"\x80\x04" + call(forge) + b".")


SCRIPTS = [
    Row("a benign program", lambda f: program(f, packed_source(SOURCE)), "safe"),
    Row(
        "code that really inflates to gigabytes",
        lambda f: program(f, code(inflating(GIGABYTES), GIGABYTES << 20)),
        "F003",
        "its code has more than",
    ),
    Row(
        "code that claims to be empty and inflates to gigabytes",
        lambda f: program(f, code(inflating(GIGABYTES), 0, 7)),
        "F002",
        "checksum",
    ),
    Row(
        "code that claims a byte and inflates to gigabytes",
        lambda f: program(f, code(inflating(GIGABYTES), 1, 7)),
        "F002",
        "checksum",
    ),
    Row("code that does not inflate", lambda f: program(f, code(b"\xff" * 99, 99, 7)), "F002", "does not inflate"),
    Row("code of another checksum", lambda f: program(f, code(deflated(SOURCE), len(SOURCE), 7)), "F002", "checksum"),
    Row(
        "code of many members",
        lambda f: program(
            f, packed_source(SOURCE.replace(b"]", b"".join(b'"%x",' % n for n in range(1_500_000)) + b"]", 1))
        ),
        "safe",
    ),
    Row(
        "a file of code with a long name and many classes",
        lambda f: program(
            f,
            packed_source(
                b"".join(b"class C%x(Module):\n" % n for n in range(300_000)), b"forged/code/" + b"n" * 60_000 + b".py"
            ),
        ),
        "safe",
    ),
    Row(
        "a program whose pickle calls os.system",
        lambda f: program(f, packed_source(SOURCE), root=instance("__torch__.M", w=f.tensor(), odd=call(f))),
        "unsafe",
        "os.system",
    ),
    Row(
        "a program that holds itself",
        lambda f: program(
            f,
            packed_source(SOURCE),
            root=named("__torch__.M") + b")\x81" + put(9) + mapping(w=f.tensor(), me=get(9)) + b"b",
        ),
        "F003",
        "nests more than",
    ),
    Row(
        "a program that is no module", lambda f: program(f, packed_source(SOURCE), root=call(f)), "F002", "is no module"
    ),
    Row(
        "a program whose code climbs", lambda f: program(f, packed_source(SOURCE, b"forged/code/../../evil.py")), "safe"
    ),
]

PACKAGES = [
    Row("a benign package", package, "safe"),
    Row(
        "a package whose pickle calls os.system",
        lambda f: package(f, model__evil_pkl=b"\x80\x02" + call(f) + b"."),
        "unsafe",
        "os.system",
    ),
    Row("a package with source", lambda f: package(f, evil_py=python(f).encode()), "safe"),
    Row(
        "a package whose pickle goes on",
        lambda f: package(f, model__evil_pkl=b"\x80\x02N." + call(f) + b"."),
        "F002",
        "goes on after the pickle",
    ),
    Row("a package with a flipped byte in its pickle", flipped_package, "F002", "does not have its checksum"),
    Row("a crowded package", crowded_package, "F003", "sets of tensors"),
    Row(
        "a package without weights",
        lambda f: f.file(archive(stored({".data/extern_modules": b"", "m/x.pkl": b"\x80\x02" + call(f) + b"."}))),
        "F001",
        "hold no weights",
    ),
]

EXPORTS = [
    Row("a benign export", exported, "safe"),
    Row("an export whose sizes are a number", lambda f: exported(f, sizes=5), "F002", "no natural numbers"),
    Row("an export whose sizes are true", lambda f: exported(f, sizes=True, strides=True), "F002", "no natural"),
    Row("an export whose sizes are a text", lambda f: exported(f, sizes="4"), "F002", "no natural numbers"),
    Row("an export whose offset is a list", lambda f: exported(f, storage_offset=[1]), "F002", "no natural numbers"),
    Row("an export of a type that is a list", lambda f: exported(f, dtype=[7]), "F004", "not in it as records"),
    Row(
        "an export with a stride of zero",
        lambda f: exported(f, sizes=[{"as_int": 2**40}], strides=[{"as_int": 0}]),
        "F003",
        "out of 16 stored",
    ),
    Row("an export beyond its record", lambda f: exported(f, sizes=[{"as_int": 5}]), "F002", "reaches to byte 20"),
    Row("an export that climbs", lambda f: exported(f, path="../../version"), "F002", "in no record"),
    Row("an export with a pickle for a weight", lambda f: exported(f, pickled=True), "F004", "not in it as records"),
    Row("an export with a key twice", lambda f: exported(f, raw=b'{"config": {}, "config": {}}'), "F002", "twice"),
    Row("an export with NaN", lambda f: exported(f, raw=b'{"config": NaN}'), "F002", "has NaN"),
    Row("an export that nests", lambda f: exported(f, raw=b'{"config":' + b"[" * 100_000), "F002", "nests deeper"),
    Row("an older export that calls os.system", old_export, "unsafe", "os.system"),
]

ARRAYS = [
    Row("benign arrays", numpy(lambda _: arrays(w=GOOD_ARRAY)), "safe"),
    Row(
        "an array that claims and is gigabytes",
        numpy(lambda _: bomb(GIGABYTES, GIGABYTES << 20, GIGABYTES << 20)),
        "F003",
        "stored",
    ),
    Row(
        "an array that claims little and is gigabytes",
        numpy(lambda _: bomb(GIGABYTES, 100, 100)),
        "F002",
        "does not inflate to the 100 bytes",
    ),
    Row(
        "an array that claims gigabytes and is empty",
        numpy(
            lambda _: packed(
                deflated(npy(described("|u1", "(3000000000,)"))),
                3_000_000_000 + len(npy(described("|u1", "(3000000000,)"))),
            )
        ),
        "F003",
        "stored",
    ),
    Row(
        "an array of 60 MB that does not end", numpy(lambda _: bomb(70, 60 << 20, 60 << 20)), "F002", "does not inflate"
    ),
    Row("an array in another order of everything", numpy(turned), "safe"),
    Row(
        "an array whose stream is cut",
        numpy(lambda _: packed(deflated(GOOD_ARRAY)[:-3], len(GOOD_ARRAY))),
        "F002",
        "does not inflate",
    ),
    Row(
        "an array with bytes behind its stream",
        numpy(lambda _: packed(deflated(GOOD_ARRAY) + b"#!/bin/sh", len(GOOD_ARRAY))),
        "F002",
        "does not inflate",
    ),
    Row("an array of objects", numpy(lambda f: arrays(w=object_array(f))), "F001", "an array of Python objects"),
    Row("an array of objects beside another", numpy(lambda f: arrays(w=GOOD_ARRAY, evil=object_array(f))), "safe"),
    Row(
        "an array of records with objects",
        numpy(
            lambda f: arrays(
                w=npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,), }", b"\x80\x04" + call(f) + b".")
            )
        ),
        "F001",
        "raw bytes or records",
    ),
    Row(
        "a header that is code",
        numpy(lambda f: arrays(w=npy(f"{{'descr': {python(f)}, 'fortran_order': False, 'shape': (4,), }}", VALUES))),
        "F002",
        "a header that numpy does not write",
    ),
    Row(
        "a header that takes a pattern for ever",
        numpy(lambda _: arrays(w=npy(described(shape="(" + "1" * 5000 + "x)"), VALUES))),
        "F002",
        "a header that numpy does not write",
    ),
    Row(
        "a header of brackets",
        numpy(lambda _: arrays(w=npy("{'descr': [" + "]" * 9000, VALUES))),
        "F002",
        "a header that numpy does not write",
    ),
    Row(
        "a header of 60,000 bytes",
        numpy(lambda _: arrays(w=npy(described() + " " * 60_000, VALUES))),
        "F003",
        "a header of",
    ),
    Row(
        "a size of 10^19",
        numpy(lambda _: arrays(w=npy(described(shape="(10000000000000000000, 0)")))),
        "F002",
        "sizes of 2^63",
    ),
    Row(
        "a shape that is not there", numpy(lambda _: arrays(w=npy(described(shape="(5,)"), VALUES))), "F002", "takes 20"
    ),
    Row("a negative size", numpy(lambda _: arrays(w=npy(described(shape="(-4,)"), VALUES))), "F002", "a header that"),
    Row("an array by a name that climbs", numpy(lambda _: archive([Entry(b"../../w.npy", GOOD_ARRAY)])), "safe"),
    Row(
        "an array by a name that turns the terminal",
        numpy(lambda _: archive([Entry(f"{UGLY}.npy".encode(), GOOD_ARRAY[:-1])])),
        "F002",
        "\\x1b[31mred",
    ),
    Row(
        "an array by a name that is no text",
        numpy(lambda _: archive([Entry(b"\xff.npy", GOOD_ARRAY)])),
        "F002",
        "impossible name",
    ),
    Row(
        "an array without a name",
        numpy(lambda _: archive([Entry(b".npy", GOOD_ARRAY)])),
        "F002",
        "which is none of an array",
    ),
    Row(
        "two arrays by one name",
        numpy(lambda _: archive([Entry(b"w.npy", GOOD_ARRAY), Entry(b"w.npy", GOOD_ARRAY)])),
        "F002",
        "one name to some readers",
    ),
]

ROWS = [*SCRIPTS, *PACKAGES, *EXPORTS, *ARRAYS]

"""safetensors whose header lies, and indexes that lead astray."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile_building import ONE, UGLY, VALUES, Row, call, header, sharded

GOOD = header(w=ONE)


def file(make: Callable[[], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.file(make(), "model.safetensors")


def raw(text: str | bytes, data: bytes = VALUES[:8], length: int | None = None) -> Callable[[Any], Path]:
    return lambda forge: forge.safetensors(text, data, length)


def lying(**fields: Any) -> Callable[[Any], Path]:
    return file(lambda: header(w={**ONE, **fields}))


def index(weights: Any, **shards: bytes) -> Callable[[Any], Path]:
    return lambda forge: sharded(forge, weights, **shards)


def linked(target: str) -> Callable[[Any], Path]:
    """A shard that is a symbolic link."""

    def build(forge: Any) -> Path:
        forge.file(GOOD, "outside.safetensors")
        folder = sharded(forge, {"w": "link.safetensors"}, inside=GOOD)
        (folder / "link.safetensors").symlink_to(target)
        return folder

    return build


def with_code(forge: Any) -> Path:
    """A shard of torch.save that calls os.system."""
    shard = forge.archive(forge.state(w=forge.tensor(), odd=call(forge)), {"0": VALUES})
    folder = sharded(forge, {"w": "a.bin"})
    os.rename(shard, folder / "a.bin")  # noqa: PTH104
    return folder


def expanding(forge: Any) -> Path:
    """Three hundred small shards, each of which expands by as much as one file may."""
    names = [f"w{n}" for n in range(300)]
    folder = sharded(forge, {name: f"{name}.bin" for name in names})
    for name in names:
        tensors = {name: forge.tensor(storage_class="torch ByteStorage", elements=16, shape=(2**26,), stride=(0,))}
        forge.archive(forge.state(**tensors), {"0": VALUES}).rename(folder / f"{name}.bin")
    return folder


HEADERS = [
    Row("a benign header", file(lambda: GOOD), "safe"),
    Row("a header of 100 MB and a byte", raw("{}", length=100_000_001), "F003", "over the limit of 100,000,000"),
    Row("a header of 2^63 bytes", raw("{}", length=1 << 63), "F003", "over the limit"),
    Row("a header beyond the file", raw("{}", length=99_999_999), "F002", "claims 99,999,999 bytes"),
    Row("a name twice", raw(f'{{"w": {json.dumps(ONE)}, "w": {json.dumps(ONE)}}}'), "F002", "key 'w' twice"),
    Row(
        "a field twice",
        raw('{"w": {"dtype": "F32", "dtype": "F64", "shape": [2], "data_offsets": [0, 8]}}'),
        "F002",
        "key 'dtype' twice",
    ),
    Row("NaN", raw('{"w": NaN}'), "F002", "has NaN"),
    Row("minus infinity", raw('{"w": -Infinity}'), "F002", "has -Infinity"),
    Row("a lone surrogate", raw('{"\\ud800": 1}'), "F002", "which is not Unicode"),
    Row("bytes that are no text", raw(b'{"\xff": 1}'), "F002", "not JSON"),
    Row("nesting without end", raw('{"w":' + "[" * 300_000), "F002", "nests deeper"),
    Row("objects in objects without end", raw('{"w":' * 300_000), "F002", "nests deeper"),
    Row("a number of a million digits", raw('{"w": ' + "9" * 1_000_000 + "}"), "F002", "not JSON"),
    Row("brackets over the limit", raw(b'{"w":[' + b"[]," * 9_000_000), "F003", "brackets and commas"),
    Row("a negative offset", lying(data_offsets=[-8, 0]), "F002", "not a list of natural numbers"),
    Row("offsets the wrong way", lying(data_offsets=[8, 0]), "F002", "which are no range"),
    Row(
        "overlapping tensors",
        file(lambda: header(v=ONE, w={"dtype": "U8", "shape": [4], "data_offsets": [4, 8]})),
        "F002",
        "overlaps",
    ),
    Row(
        "a hole",
        file(
            lambda: header(
                v={"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
                w={"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
            )
        ),
        "F002",
        "2 bytes before tensor 'w'",
    ),
    Row("trailing bytes", raw(json.dumps({"w": ONE}), VALUES), "F002", "at the end of the file"),
    Row("sizes whose product wraps around", lying(shape=[2**33, 2**31]), "F002", "where its shape"),
    Row("sizes of 2^62 and none", lying(shape=[2**62, 2**62, 0], data_offsets=[0, 0]), "F002", "at the end"),
    Row("a fraction for a size", lying(shape=[2.0]), "F002", "not a list of natural numbers"),
    Row("a thousand dimensions", lying(shape=[1] * 1000), "F002", "1,000 dimensions"),
    Row("an unknown type", lying(dtype=UGLY), "F002", "\\x1b[31mred"),
    Row("a type that is a list", lying(dtype=["F32"]), "F002", "unknown element type 'list'"),
    Row("a name that turns the terminal around", file(lambda: header(**{UGLY: ONE})), "safe"),
    Row(
        "a broken tensor whose name turns the terminal around",
        file(lambda: header(**{UGLY: {}})),
        "F002",
        "\\x1b[31mred",
    ),
    Row("metadata that turns the terminal around", raw(json.dumps({"__metadata__": {UGLY: UGLY}, "w": ONE})), "safe"),
    Row("metadata of a metadata", raw(json.dumps({"__metadata__": {"a": {}}, "w": ONE})), "F002", "no string"),
    Row("a name of a million prefixes", file(lambda: header(**{"module." * 1_000_000 + "w": ONE})), "safe"),
    Row("no tensor", raw("{}", b""), "F001", "lists no tensor"),
    Row("eight bytes", lambda f: f.file(struct.pack("<Q", 2), "model.safetensors"), "F001", "first bytes"),
]

INDEXES = [
    Row("a benign index", index({"w": "a.safetensors"}, a=GOOD), "safe"),
    Row("a shard that climbs", index({"w": "../a.safetensors"}, a=GOOD), "F007", "'../a.safetensors'"),
    Row("a shard that climbs as on Windows", index({"w": "..\\a.safetensors"}, a=GOOD), "F007", "the name of a file"),
    Row("an absolute shard", index({"w": "/etc/passwd"}), "F007", "'/etc/passwd'"),
    Row("a shard of another drive", index({"w": "C:evil"}), "F007", "'C:evil'"),
    Row("a shard in a folder", index({"w": "sub/a.safetensors"}), "F007", "'sub/a.safetensors'"),
    Row("a shard that is its directory", index({"w": ".."}), "F007", "'..'"),
    Row("a shard without a name", index({"w": ""}), "F007", "''"),
    Row("a shard with NUL", index({"w": "a\0.safetensors"}), "F007", "\\x00"),
    Row("a shard whose name turns the terminal around", index({"w": UGLY}), "F007", "\\x1b[31mred"),
    Row("a shard with a lone surrogate", index('{"weight_map": {"w": "\\udc80"}}'), "F002", "which is not Unicode"),
    Row("a shard with an endless name", index({"w": "a" * 100_000}), "F008", "no readable file"),
    Row("a missing shard", index({"w": "b.safetensors"}, a=GOOD), "F008", "'b.safetensors'"),
    Row("an empty shard", index({"w": "a.safetensors"}, a=b""), "F001", "the file is empty"),
    Row("a shard that is a link out", linked("../outside.safetensors"), "F007", "a link that leads out"),
    Row("a shard that is a link to a device", linked("/dev/zero"), "F007", "a link that leads out"),
    Row("a shard that is a link to itself", linked("link.safetensors"), "F008", "no readable file"),
    Row("a shard that is a link to another", linked("inside.safetensors"), "safe"),
    Row(
        "a key twice",
        index('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', a=GOOD),
        "F002",
        "key 'w' twice",
    ),
    Row(
        "an index that lies about where a name is",
        index({"w": "b.safetensors", "v": "a.safetensors"}, a=GOOD, b=header(v=ONE)),
        "F002",
        "which the index does not say",
    ),
    Row(
        "an index that knows more names",
        index({"w": "a.safetensors", "v": "a.safetensors"}, a=GOOD),
        "F002",
        "as the index says",
    ),
    Row("an index that knows fewer names", index({"w": "a.safetensors"}, a=header(v=ONE)), "F002", "does not say"),
    Row("an index that names itself", index({"w": "model.safetensors.index.json"}), "F002", "neither safetensors nor"),
    Row(
        "an index of other indexes",
        index({"w": "a.safetensors"}, a=b'{"weight_map": {"w": "a.safetensors"}}'),
        "F002",
        "neither safetensors nor",
    ),
    Row("a map that is a list", index('{"weight_map": ["a.safetensors"]}'), "F002", "no object of file names"),
    Row("a map to lists", index({"w": ["a.safetensors"]}), "F002", "no object of file names"),
    Row("an empty map", index({}), "F001", "lists no tensor"),
    Row("a map that nests", index('{"weight_map": ' + "[" * 100_000), "F002", "nests deeper"),
    Row(
        "a map to ten thousand files",
        index({f"w{n}": f"{n}.safetensors" for n in range(12_000)}),
        "F008",
        "no readable file",
    ),
    Row("a shard that calls os.system", with_code, "unsafe", "os.system"),
    Row(
        "a shard that is malformed",
        index({"w": "a.safetensors"}, a=header(w={**ONE, "shape": [3]})),
        "F002",
        "in 'a.safetensors', tensor 'w'",
    ),
    Row("shards that expand a little each", expanding, "F003", "all tensors would take"),
]

ROWS = [*HEADERS, *INDEXES]

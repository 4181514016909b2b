"""Directories of torch.distributed.checkpoint, and files that are no plain files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from hostile_building import (
    FILE,
    LAUGHING_TUPLE,
    ONE,
    UGLY,
    VALUES,
    Row,
    call,
    chunk,
    chunked,
    colliding_pairs,
    distributed,
    get,
    header,
    listed,
    mapping,
    named,
    number,
    place,
    put,
    saved_tensor,
    text,
)

WHOLE = listed(chunk((0,), (4,)))


def simple(forge: Any, **options: Any) -> Path:
    """One tensor in one chunk; what is given replaces parts of that."""
    data = options.pop("data", None) or saved_tensor(forge)
    tensor = options.pop("tensor", chunked((4,), WHOLE))
    where = options.pop("where", None) or place("w", (0,), FILE, 0, len(data))
    return distributed(forge, text("w") + tensor, where, data, **options)


def two(forge: Any, first: tuple[int, int], second: tuple[int, int], total: int) -> Path:
    """A tensor in two chunks, each by where it begins and how long it is."""
    parts = [saved_tensor(forge, shape=(length,)) for _, length in (first, second)]
    where = place("w", first[:1], FILE, 0, len(parts[0])) + place("w", second[:1], FILE, len(parts[0]), len(parts[1]))
    chunks = listed(*(chunk((start,), (length,)) for start, length in (first, second)))
    return distributed(forge, text("w") + chunked((total,), chunks), where, b"".join(parts))


def many_chunks(forge: Any, count: int) -> Path:
    part = chunk((0,), (1,)) + put(77)
    return simple(forge, tensor=chunked((count,), b"](" + part + get(77) * (count - 1) + b"e"))


def shared_chunks(forge: Any) -> Path:
    """Thousands of tensors that share one list of thousands of chunks."""
    chunks = listed(*(chunk((0, n), (1, 1)) for n in range(4000)))
    first = text("w") + chunked((1, 4000), chunks + put(77))
    others = b"".join(text(f"w{n}") + chunked((1, 4000), get(77)) for n in range(3000))
    return distributed(forge, first + others, b"")


def crossed(forge: Any) -> Path:
    """Chunks that every pair has to be compared of: each overlaps all others in all dimensions but one."""
    dimensions = 11
    chunks = []
    for corner in range(1 << dimensions):
        chunks.append(chunk(tuple(corner >> bit & 1 for bit in range(dimensions)), (1,) * dimensions))
    tensors = b"".join(text(f"w{n}") + chunked((2,) * dimensions, get(77)) for n in range(60))
    return distributed(forge, text("w") + chunked((2,) * dimensions, listed(*chunks) + put(77)) + tensors, b"")


def expanded(forge: Any) -> Path:
    """A thousand tensors that are one chunk, which a stride of zero makes large."""
    data = saved_tensor(forge, storage_class="torch ByteStorage", elements=16, shape=(2**26,), stride=(0,))
    names = [f"w{n}" for n in range(1000)]
    chunks = listed(chunk((0,), (2**26,))) + put(77)
    tensors = b"".join(
        text(name) + chunked((2**26,), get(77) if n else chunks, "torch.uint8") for n, name in enumerate(names)
    )
    where = b"".join(place(name, (0,), FILE, 0, len(data)) for name in names)
    return distributed(forge, tensors, where, data)


def far_strides(forge: Any) -> Path:
    """Chunks whose dimensions of one have strides that no pointer can take."""
    part = saved_tensor(forge, shape=(1, 4), stride=(2**62, 1))
    where = place("w", (0, 0), FILE, 0, len(part)) + place("w", (1, 0), FILE, 0, len(part))
    chunks = listed(chunk((0, 0), (1, 4)), chunk((1, 0), (1, 4)))
    return distributed(forge, text("w") + chunked((2, 4), chunks), where, part)


def long_paths(forge: Any) -> Path:
    """Many names that all have one path of many keys."""
    planned = text("k") + put(78) + b"0(" + get(78) * 20_000 + b"t" + put(79) + b"0}("
    others = b"".join(text(f"w{n}") + b"N" for n in range(5_000))
    planned += b"".join(text(f"w{n}") + get(79) for n in range(5_000)) + b"u"
    data = saved_tensor(forge)
    where = place("w", (0,), FILE, 0, len(data))
    return distributed(forge, text("w") + chunked((4,), WHOLE) + others, where, data, planned=planned)


def colliding_places(forge: Any) -> Path:
    """Places of chunks whose offsets all have one hash."""
    data = saved_tensor(forge)
    where = place("w", (0,), FILE, 0, len(data))
    where += b"".join(place("w", pair, FILE, 0, 1) for pair in colliding_pairs(12_000))
    return distributed(forge, text("w") + chunked((4,), WHOLE), where, data)


def linked(forge: Any) -> Path:
    folder = simple(forge)
    shutil.move(folder / FILE, forge.folder / "outside")
    (folder / FILE).symlink_to("../outside")
    return folder


def without_its_file(forge: Any) -> Path:
    folder = simple(forge)
    (folder / FILE).unlink()
    return folder


def somewhere(file: str, start: int = 0, length: int = 10) -> Any:
    return lambda forge: simple(forge, where=place("w", (0,), file, start, length))


DISTRIBUTED = [
    Row("a benign distributed checkpoint", simple, "safe"),
    Row("code in the metadata", lambda f: simple(f, other=call(f)), "unsafe", "os.system"),
    Row("code in the plan", lambda f: simple(f, planned=call(f)), "unsafe", "os.system"),
    Row("code behind the metadata", lambda f: simple(f, tail=b"\x80\x02" + call(f) + b"."), "F002", "goes on after"),
    Row(
        "code in a chunk",
        lambda f: simple(f, data=f.archive(b"\x80\x02" + call(f) + b".", {}).read_bytes()),
        "F002",
        "is no tensor",
    ),
    Row(
        "code before the tensor of a chunk",
        lambda f: simple(
            f, data=f.archive(b"\x80\x02" + call(f) + b"0" + f.tensor() + b".", {"0": VALUES}).read_bytes()
        ),
        "unsafe",
        "os.system",
    ),
    Row("a persistent id in the metadata", lambda f: simple(f, other=text("x") + b"Q"), "F002", "a persistent id"),
    Row("overlapping chunks", lambda f: two(f, (0, 3), (2, 3), 6), "F002", "overlap"),
    Row("a hole between chunks", lambda f: two(f, (0, 2), (3, 2), 5), "F002", "4 elements where the whole has 5"),
    Row("a chunk that reaches out of the whole", lambda f: two(f, (0, 2), (3, 2), 4), "F002", "reaches out of"),
    Row(
        "a chunk beyond its file",
        lambda f: simple(f, where=place("w", (0,), FILE, 0, 1 << 40)),
        "F002",
        "reaches to byte 1,099,511,627,776",
    ),
    Row("a chunk that begins beyond its file", somewhere(FILE, 1 << 62, 1 << 62), "F002", "reaches to byte"),
    Row("a chunk of nothing", somewhere(FILE, 0, 0), "F002", "in the chunk of 'w'"),
    Row(
        "a chunk of another type",
        lambda f: simple(f, tensor=chunked((4,), WHOLE, "torch.int32")),
        "F002",
        "is float32 of shape [4]",
    ),
    Row(
        "a chunk of no type",
        lambda f: simple(f, tensor=chunked((4,), WHOLE, "os.system")),
        "F002",
        "unknown element type",
    ),
    Row("a million chunks", lambda f: many_chunks(f, 1_000_000), "F003", "at most 4,096 chunks"),
    Row("thousands of chunks, thousands of times", shared_chunks, "F003", "chunks"),
    Row("chunks that overlap in all dimensions but one", crossed, "F003", "chunks"),
    Row("one chunk for many tensors", expanded, "F003", "all tensors would take"),
    Row("chunks with strides of 2^62", far_strides, "safe"),
    Row("a chunk without a place", lambda f: simple(f, where=place("v", (0,), FILE, 0, 1)), "F002", "does not say"),
    Row("places of one hash", colliding_places, "safe"),
    Row("a file that climbs", somewhere("../../etc/passwd"), "F007", "'../../etc/passwd'"),
    Row("an absolute file", somewhere("/etc/passwd"), "F007", "'/etc/passwd'"),
    Row("a file with a lone surrogate", somewhere("\ud800"), "F007", "\\ud800"),
    Row("a file whose name turns the terminal around", somewhere(UGLY), "F007", "\\x1b[31mred"),
    Row("a file that is a link out", linked, "F007", "a link that leads out"),
    Row("a file that is missing", without_its_file, "F008", "no readable file"),
    Row("metadata that names itself", somewhere(".metadata"), "F002", "in the chunk of 'w'"),
    Row(
        "a plan that laughs", lambda f: simple(f, planned=b"}" + text("w") + LAUGHING_TUPLE + b"\x85s"), "F002", "path"
    ),
    Row("a plan of long paths", long_paths, "F003", "path"),
    Row(
        "a plan with a huge number",
        lambda f: simple(f, planned=b"}" + text("w") + number(1 << 2000) + b"\x85s"),
        "safe",
    ),
    Row(
        "a laughing name",
        lambda f: distributed(
            f,
            LAUGHING_TUPLE + b"N" + text("w") + chunked((4,), WHOLE),
            place("w", (0,), FILE, 0, len(saved_tensor(f))),
            saved_tensor(f),
        ),
        "F003",
        "a key of more than",
    ),
    Row(
        "a tensor in a tensor",
        lambda f: distributed(
            f,
            text("a") + chunked((4,), WHOLE) + text("b") + chunked((4,), WHOLE),
            b"",
            planned=mapping(a=text("x") + b"\x85", b=text("x") + text("y") + b"\x86"),
        ),
        "F002",
        "inside of a tensor",
    ),
    Row(
        "a name that turns the terminal around",
        lambda f: distributed(f, text(UGLY) + chunked((4,), WHOLE), b""),
        "F002",
        "\\x1b[31mred",
    ),
    Row("a name that is no text", lambda f: distributed(f, text("\ud800") + chunked((4,), WHOLE), b""), "F002", "name"),
    Row(
        "an extension that transforms",
        lambda f: distributed(
            f,
            text("w") + chunked((4,), WHOLE),
            place("w", (0,), FILE, 0, 1).replace(
                text("relative_path"),
                text("transform_descriptors") + b"](" + named("os.system") + b"e" + text("relative_path"),
            ),
        ),
        "F004",
        "stored by an extension",
    ),
]


def fifo(forge: Any) -> Path:
    path: Path = forge.folder / "pipe.pt"
    os.mkfifo(path)
    return path


def link(forge: Any, target: str, name: str = "link.pt") -> Path:
    path: Path = forge.folder / name
    path.symlink_to(target)
    return path


def folder(forge: Any, *names: str) -> Path:
    path: Path = forge.folder / "folder"
    path.mkdir()
    for name in names:
        (path / name).write_bytes(header(w=ONE))
    return path


def within(forge: Any, name: str) -> Path:
    """A directory whose only checkpoint is a directory."""
    path = folder(forge)
    (path / name).mkdir()
    return path


def looping(forge: Any) -> Path:
    path = folder(forge, "model.safetensors")
    (path / "loop").symlink_to(".")
    (path / "loop.safetensors.index.json").symlink_to("loop.safetensors.index.json")
    return path


def piped(forge: Any) -> Path:
    path = folder(forge)
    os.mkfifo(path / ".metadata")
    return path


FILES = [
    Row("a pipe", fifo, "InputError", "Not a regular file"),
    Row("a link to /dev/zero", lambda f: link(f, "/dev/zero"), "InputError", "Not a regular file"),
    Row("a link to itself", lambda f: link(f, "link.pt"), "InputError", "link.pt"),
    Row("a link to nothing", lambda f: link(f, "nothing.pt"), "InputError", "is a link to a file that is not there"),
    Row("an empty file", lambda f: f.file(b""), "F001", "the file is empty"),
    Row("an empty directory", folder, "F001", "a directory without a checkpoint"),
    Row("a directory that holds itself", looping, "InputError", "loop.safetensors.index.json"),
    Row(
        "a directory with two checkpoints",
        lambda f: folder(f, "a.safetensors", "b.safetensors"),
        "InputError",
        "has 2 checkpoints",
    ),
    Row(
        "a directory with names that turn the terminal around",
        lambda f: folder(f, "\x1b[31m.pt", "\u202e.pt"),
        "InputError",
        "\\x1b[31m",
    ),
    Row(
        "a directory with a directory for a checkpoint",
        lambda f: within(f, "model.pt"),
        "InputError",
        "Not a regular file",
    ),
    Row("a directory with a pipe for metadata", piped, "InputError", "Not a regular file"),
    Row("a directory with a directory for metadata", lambda f: within(f, ".metadata"), "InputError", "regular file"),
    Row("a name that is too long", lambda f: f.folder / ("a" * 5000), "InputError", "Cannot open"),
    Row("a path with NUL", lambda f: f.folder / "a\0b", "InputError", "Cannot open"),
    Row("a file in a file", lambda f: f.file(b"x") / "model.pt", "InputError", "Cannot open"),
]

ROWS = [*DISTRIBUTED, *FILES]

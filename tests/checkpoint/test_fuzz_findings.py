"""What fuzzing found, and reading the code for what it could not find: each file by itself, and how it ends now.

The row of a finding is the least that brings it about; what happened before is said beside it.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from manifest.checkpoint import open_checkpoint

VALUES = bytes(range(16))


def npz(header: str) -> Callable[[Any], Path]:
    """An archive of one array with a header."""
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    return lambda forge: zipped(forge, {"a.npy": raw})


def zipped(forge: Any, records: dict[str, bytes], deflated: tuple[str, ...] = (), name: bytes = b"") -> Path:
    """An archive, some of its records compressed; an `é` in names is replaced by other bytes when there are any."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for record, content in records.items():
            archive.writestr(record, content, zipfile.ZIP_DEFLATED if record in deflated else zipfile.ZIP_STORED)
    return forge.file(buffer.getvalue().replace("é".encode(), name or "é".encode()))


def exported(**meta: Any) -> Callable[[Any], Path]:
    """An exported program with one weight, some of its description replaced."""
    known = {"dtype": 7, "layout": 7, "sizes": [{"as_int": 4}], "strides": [{"as_int": 1}]}
    config = {"config": {"w": {"path_name": "weight_0", "tensor_meta": {**known, **meta}}}}
    records = {
        "p/archive_format": b"pt2",
        "p/version": b"0",
        "p/data/weights/model_weights_config.json": json.dumps(config).encode(),
        "p/data/weights/weight_0": VALUES,
    }
    return lambda forge: zipped(forge, records)


def changed(path: Path, number: int, other: int) -> Path:
    """The same archive with another number in its headers."""
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", number), struct.pack("<I", other)))
    return path


def scripted(forge: Any, code: dict[str, bytes], name: bytes = b"") -> Path:
    """A TorchScript program of one module with one tensor, its source compressed."""
    root = forge.named("__torch__", "M") + b")\x81}" + forge.text("w") + forge.tensor() + b"sb."
    records = {"p/data.pkl": b"\x80\x02" + root, "p/data/0": VALUES, "p/constants.pkl": b"\x80\x02)."}
    return zipped(forge, {**records, "p/version": b"3\n", **code}, tuple(code), name)


def module(forge: Any, members: bytes = b"", children: bytes = b"", name: str = "a") -> bytes:
    """Opcodes of a pickled module, which is memo entry 0 while they run; as a state."""
    return (
        forge.named("a", name)
        + b")\x81q\x00}("
        + forge.text("_parameters")
        + b"}("
        + members
        + b"u"
        + forge.text("_modules")
        + b"}("
        + children
        + b"uub"
    )


def many(forge: Any, count: int, value: bytes) -> bytes:
    return b"".join(forge.text(str(index)) + value for index in range(count))


def within_itself(forge: Any, *, name: str = "m", members: int = 0, copies: int = 1) -> bytes:
    """A module that is its own child, so that going through it comes to an end by a limit only."""
    tensor = forge.text("w") + forge.tensor() + b"q\x01"
    children = b"".join(forge.text(f"{name}{index}") + b"h\x00" for index in range(copies))
    return b"\x80\x02" + module(forge, tensor + many(forge, members, b"h\x01"), children) + b"."


def listing(forge: Any) -> bytes:
    """Sixty-four sets of weights in a list of many other things, each of which has those beside it."""
    tensor = b"}" + forge.text("w") + b"h\x01s"
    values = forge.tensor() + b"q\x010"
    return b"\x80\x02" + values + b"](" + tensor * 64 + b"N" * 100_000 + b"e."


def long_keys(forge: Any) -> bytes:
    """Weights under a long key, with many other things beside them."""
    entries = forge.text("w") + forge.tensor() + many(forge, 200_000, b"N")
    return forge.state(**{"k" * 500: b"}" + forge.text("l" * 500) + b"}(" + entries + b"us"})


def distributed(
    folder: Path,
    shape: tuple[int, ...],
    chunks: dict[tuple[int, ...], torch.Tensor],
    *,
    file: str = "__0_0.distcp",
    planner: Any = None,
) -> Path:
    """A distributed checkpoint of one tensor in chunks, by where they begin."""
    stored, places, listed = b"", {}, []
    for offsets, chunk in chunks.items():
        buffer = io.BytesIO()
        torch.save(chunk, buffer)
        places[MetadataIndex("w", torch.Size(offsets))] = _StorageInfo(file, len(stored), len(buffer.getvalue()))
        listed.append(ChunkStorageMetadata(torch.Size(offsets), chunk.shape))
        stored += buffer.getvalue()
    entry = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size(shape), listed)
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata({"w": entry}, planner or {"w": ("w",)}, places)))
    (folder / "__0_0.distcp").write_bytes(stored)
    return folder / ".metadata"


def doubled(times: int) -> tuple[Any, ...]:
    """A tuple that would take 2^times steps to print."""
    value: tuple[Any, ...] = ()
    for _ in range(times):
        value = (value, value)
    return value


REFUSED: dict[str, tuple[Callable[[Any], Path], str, str]] = {
    # Took 2^40 steps: a run of digits could be cut into numbers anywhere.
    "digits without end in the shape of an array": (
        npz("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1" * 60 + "x), }"),
        "F002",
        "a header that numpy does not write",
    ),
    # Was written into a message of some thousand digits.
    "a size of an array beyond all": (
        npz("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }"),
        "F002",
        "sizes of 2^63 and more",
    ),
    # Passed, as an array of nothing.
    "an empty array of a size beyond all": (
        npz("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 0), }"),
        "F002",
        "sizes of 2^63 and more",
    ),
    # TypeError
    "a number for the sizes of an exported weight": (exported(sizes=4), "F002", "that are no natural numbers"),
    "a number for the strides of an exported weight": (exported(strides=True), "F002", "that are no natural numbers"),
    # The name was shown as it is.
    "source with a turning name that was changed": (
        lambda forge: changed(scripted(forge, {"p/code/\u202ea.py": b"x = 1"}), zlib.crc32(b"x = 1"), 1),
        "F002",
        r"record 'code/\u202ea.py' does not have its checksum",
    ),
    # Passed, and then the manifest could not be written.
    "source with a name that is not Unicode": (
        lambda forge: scripted(forge, {"p/code/é.py": b"x = 1"}, name=b"\xff\xfe"),
        "F002",
        r"the impossible name 'p/code/\udcff\udcfe.py'",
    ),
    # To zlib, a limit of no bytes is none: megabytes of source became gigabytes.
    "compressed source that claims to be empty": (
        lambda forge: changed(scripted(forge, {"p/code/a.py": b"x" * 70_000}), 70_000, 0),
        "F002",
        "record 'code/a.py' does not have its checksum",
    ),
    # Each of a hundred levels has the names of all before it in its own.
    "a module within itself by a long name": (
        lambda forge: forge.archive(within_itself(forge, name="m" * 100_000), {"0": VALUES}),
        "F003",
        "nests more than 100 deep, or in more ways than can be listed",
    ),
    "a module of many tensors within itself twice": (
        lambda forge: forge.archive(within_itself(forge, members=10_000, copies=2, name=""), {"0": VALUES}),
        "F003",
        "nests more than 100 deep, or in more ways than can be listed",
    ),
    # ValueError out of os.path.realpath
    "a file of chunks with a name that is not Unicode": (
        lambda forge: distributed(forge.folder, (2,), {(0,): torch.ones(2)}, file="\ud800"),
        "F007",
        r"it names '\ud800'",
    ),
    # Gigabytes out of a few kilobytes: each chunk by itself was within the limit.
    "expanded chunks": (
        lambda forge: distributed(
            forge.folder,
            (4 << 20, 80),
            {(0, index): torch.ones(1, 1).expand(4 << 20, 1) for index in range(80)},
        ),
        "F003",
        "all tensors would take 1,342,177,280 bytes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_file_when_it_was_a_finding_then_is_refused_in_one_sentence(case, forge, refusal):
    make, rule, said = REFUSED[case]
    error = refusal(make(forge))
    assert (error.rule, said in str(error)) == (rule, True), str(error)


def test_source_when_of_many_lines_then_is_searched_in_little_memory(forge):
    # A kilobyte for each line of attributes, millions of which compress to nothing.
    path = scripted(
        forge,
        {"p/code/__torch__.py": b"class M(Module):\n" + b"  __a__ = \n" * 200_000 + b'  __parameters__ = ["w", ]\n'},
    )
    tracemalloc.start()
    try:
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint.tensors) == ["w"]
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_modules_when_they_share_one_leading_nowhere_then_following_it_ends(forge, refusal):
    # Minutes: each of the modules in the list went through all that they share.
    shared = module(forge, many(forge, 30_000, b"N"), b"")
    others = b"".join(
        forge.named("a", "M")
        + b")\x81}("
        + forge.text("_parameters")
        + b"}"
        + forge.text("_modules")
        + b"}"
        + forge.text("m")
        + b"h\x00sub"
        for _ in range(500)
    )
    error = refusal(forge.archive(b"\x80\x02](" + shared + others + b"e."))
    assert (error.rule, "in more ways than can be listed" in str(error)) == ("F003", True), str(error)


def test_path_when_it_holds_tuples_doubled_in_themselves_then_is_refused(tmp_path, refusal):
    # Took 2^60 steps to show.
    path = distributed(tmp_path, (2,), {(0,): torch.ones(2)}, planner={"w": ("model", doubled(60), "w")})
    assert "the path of 'w' in the metadata has other keys than texts and numbers" in str(refusal(path))


@pytest.mark.parametrize("make", [listing, long_keys], ids=["a long list", "a long key"])
def test_things_beside_the_weights_when_there_are_many_then_are_counted_and_not_kept(forge, make):
    # Gigabytes of names: each set of weights had those of all the others beside it.
    path = forge.archive(make(forge), {"0": VALUES})
    tracemalloc.start()
    try:
        with open_checkpoint(path) as checkpoint:
            assert list(checkpoint.tensors) == ["w"]
            assert len(checkpoint.extras) <= 2 * 1_001
            assert checkpoint.extras[-1].endswith(" more")
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


def test_chunks_when_they_differ_in_dimension_two_only_then_are_told_apart_soon(tmp_path):
    # Eight million comparisons for each tensor.
    path = distributed(tmp_path, (1, 2_000), {(0, index): torch.ones(1, 1) for index in range(2_000)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["w"].shape == (1, 2_000)


def test_chunks_when_no_line_parts_them_then_are_compared_one_by_one(tmp_path):
    # Around a middle, each of the four others reaches past the one before.
    around = {(0, 0): (1, 2), (0, 2): (2, 1), (2, 1): (1, 2), (1, 0): (2, 1), (1, 1): (1, 1)}
    path = distributed(tmp_path, (3, 3), {offsets: torch.full(sizes, 1.0) for offsets, sizes in around.items()})
    with open_checkpoint(path) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == bytes(torch.ones(9).untyped_storage())


def test_chunks_when_they_overlap_then_are_refused(tmp_path, refusal):
    # One too many in one place and one too few in another.
    wrong = {(0, 0): (2, 2), (1, 1): (2, 2), (0, 2): (1, 1)}
    path = distributed(tmp_path, (3, 3), {offsets: torch.full(sizes, 1.0) for offsets, sizes in wrong.items()})
    assert "two chunks of 'w' overlap" in str(refusal(path))


def test_chunk_when_it_has_an_odd_stride_where_that_says_nothing_then_is_read(tmp_path):
    # OverflowError out of numpy
    odd = torch.ones(1, 2).as_strided((1, 2), (2**62, 1))
    path = distributed(tmp_path, (2, 2), {(0, 0): odd, (1, 0): torch.zeros(1, 2)})
    with open_checkpoint(path) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == struct.pack("<4f", 1, 1, 0, 0)


def test_tensor_when_empty_and_in_chunks_then_has_the_shape_of_the_whole(tmp_path):
    path = distributed(tmp_path, (0, 5), {(0, 0): torch.ones(0, 3)})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.tensors["w"].shape == (0, 5)
        assert not checkpoint.values(checkpoint.tensors["w"])

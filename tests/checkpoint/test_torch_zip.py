"""The gate of torch-zip: what torch lets pass, and what no checkpoint should do, is refused under the right rule."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manifest.checkpoint import open_checkpoint

VALUES = bytes(range(16))


def good(forge) -> bytes:
    """A well-formed file, as bytes to break."""
    return forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}).read_bytes()


def real() -> bytes:
    """One as torch.save writes it: with data descriptors, padding and a zip64 end."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(64.0)}, buffer)
    return buffer.getvalue()


def replaced(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in data
    assert len(old) == len(new)
    return data.replace(old, new, count)


def with_field(data: bytes, magic: bytes, offset: int, form: str, value: int, which: int = 0) -> bytes:
    """The archive with one field of its header number `which` set."""
    position = -1
    for _ in range(which + 1):
        position = data.index(magic, position + 1)
    changed = bytearray(data)
    struct.pack_into(form, changed, position + offset, value)
    return bytes(changed)


def local(data: bytes, offset: int, form: str, value: int) -> bytes:
    return with_field(data, b"PK\x03\x04", offset, form, value)


def central(data: bytes, offset: int, form: str, value: int) -> bytes:
    return with_field(data, b"PK\x01\x02", offset, form, value)


def end(data: bytes, offset: int, form: str, value: int) -> bytes:
    return with_field(data, b"PK\x05\x06", offset, form, value)


def with_gap(data: bytes) -> bytes:
    """Four bytes between the last record and the directory, whose offset is put right."""
    start = data.index(b"PK\x01\x02")
    return end(data[:start] + b"here" + data[start:], 16, "<I", start + 4)


def with_bytes_before(data: bytes) -> bytes:
    """An archive behind a script, as self-extracting ones are."""
    return b"#!/bin/sh\n" + data


def with_two_ends(data: bytes) -> bytes:
    """A second end of directory within the comment of the first."""
    last = data[-22:]
    return data[:-2] + struct.pack("<H", len(last)) + last


def with_overlap(forge) -> bytes:
    """Two names in the directory for the one record."""
    data = good(forge)
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x01\x02", start + 1)]
    tail = data[start:-22] + entry.replace(b"data.pkl", b"data.pk2")
    count = struct.unpack_from("<H", data, len(data) - 12)[0] + 1
    return data[:start] + tail + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(tail), start, 0)


def two_pickles(forge) -> Path:
    return forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, extra={"DATA.PKL": b"\x80\x02}."})


def pickled(make: Callable[[Any], bytes], storages: dict[str, bytes] | None = None) -> Callable[[Any], Path]:
    return lambda forge: forge.archive(make(forge), {"0": VALUES} if storages is None else storages)


def broken(change: Callable[[bytes], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.file(change(good(forge)))


def broken_real(change: Callable[[bytes], bytes]) -> Callable[[Any], Path]:
    return lambda forge: forge.file(change(real()))


CONTAINERS: dict[str, tuple[Callable[[Any], Path], str, str]] = {
    "cut in half": (broken(lambda data: data[: len(data) // 2]), "F002", "cut short"),
    "cut by one byte": (broken(lambda data: data[:-1]), "F002", "cut short"),
    "one byte too many": (broken(lambda data: data + b"x"), "F002", "bytes after its end"),
    "an archive appended": (broken(lambda data: data + data), "F002", "does not lie right before its end"),
    "bytes in front": (broken(with_bytes_before), "F001", "first bytes"),
    "bytes in a gap": (broken(with_gap), "F002", "4 bytes before the zip directory belong to no record"),
    "two ends of the directory": (broken(with_two_ends), "F002", "does not lie right before its end"),
    "an archive comment": (broken(lambda data: end(data, 20, "<H", 4) + b"note"), "F002", "bytes after its end"),
    "fewer records than listed": (broken(lambda data: end(end(data, 8, "<H", 9), 10, "<H", 9)), "F002", "says 9"),
    "on two disks": (broken(lambda data: end(data, 4, "<H", 1)), "F002", "in one piece"),
    "one record by two names": (lambda forge: forge.file(with_overlap(forge)), "F002", "overlaps the one before it"),
    "two pickles by case": (two_pickles, "F002", "'forged/data.pkl' and 'forged/DATA.PKL'"),
    "no root folder": (
        broken(lambda data: replaced(data, b"forged/data.pkl", b"forged_data.pkl")),
        "F002",
        "2 names at its root",
    ),
    "two root folders": (
        broken(lambda data: replaced(data, b"forged/byteorder", b"others/byteorder")),
        "F002",
        "2 names at its root",
    ),
    "deflated": (
        lambda forge: forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, compression=zipfile.ZIP_DEFLATED),
        "F002",
        "is compressed",
    ),
    "deflated in the directory only": (broken(lambda data: central(data, 10, "<H", 8)), "F002", "is compressed"),
    "encrypted": (broken(lambda data: local(central(data, 8, "<H", 1), 6, "<H", 1)), "F002", "is encrypted"),
    "other flags in the local header": (broken(lambda data: local(data, 6, "<H", 0x800)), "F002", "other flags"),
    "another name in the local header": (
        broken(lambda data: replaced(data, b"forged/byteorder", b"forged/byteordeR", 1)),
        "F002",
        "another name",
    ),
    "another size in the local header": (broken(lambda data: local(data, 22, "<I", 1)), "F002", "another size"),
    "another checksum in the local header": (broken(lambda data: local(data, 14, "<I", 1)), "F002", "another size"),
    "a size beyond the file": (
        broken(lambda data: central(central(data, 20, "<I", 1 << 30), 24, "<I", 1 << 30)),
        "F002",
        "which are not there",
    ),
    "a wide size that is nowhere": (broken(lambda data: central(data, 24, "<I", 0xFFFFFFFF)), "F002", "is nowhere"),
    "an offset into another record": (broken(lambda data: central(data, 42, "<I", 7)), "F002", "belong to no record"),
    "a flipped bit in the pickle": (
        broken(lambda data: replaced(data, b"cpu", b"cpv", 1)),
        "F002",
        "does not have its checksum",
    ),
    "a flipped bit in the descriptor": (
        broken_real(lambda data: with_field(data, b"PK\x07\x08", 4, "<I", 1)),
        "F002",
        "is not followed by its size",
    ),
    "a zip64 end elsewhere": (
        broken_real(lambda data: with_field(data, b"PK\x06\x07", 8, "<Q", 5)),
        "F002",
        "is not where its locator says",
    ),
    "two ends that disagree": (broken_real(lambda data: end(data, 12, "<I", 5)), "F002", "disagree"),
    "a zip64 end of too many records": (
        broken_real(
            lambda data: end(
                end(
                    with_field(with_field(data, b"PK\x06\x06", 24, "<Q", 1 << 40), b"PK\x06\x06", 32, "<Q", 1 << 40),
                    8,
                    "<H",
                    0xFFFF,
                ),
                10,
                "<H",
                0xFFFF,
            )
        ),
        "F003",
        "over the limit",
    ),
    "no version": (
        lambda forge: forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, without=("version",)),
        "F002",
        "has no 'version'",
    ),
    "a pickle by another case only": (
        broken(lambda data: replaced(data, b"data.pkl", b"DATA.PKL")),
        "F002",
        "has no 'data.pkl'",
    ),
    "an unknown record": (
        lambda forge: forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, extra={"run.sh": b"rm"}),
        "F002",
        "has a record 'run.sh'",
    ),
    "a storage that nothing refers to": (
        lambda forge: forge.archive(forge.state(w=forge.tensor()), {"0": VALUES, "1": b"hidden"}),
        "F002",
        "record 'data/1' is of no storage",
    ),
    "an unknown byte order": (
        lambda forge: forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, byteorder=b"pdp\x1b"),
        "F002",
        r"says 'pdp\x1b'",
    ),
    "a version to come": (
        lambda forge: forge.archive(
            forge.state(w=forge.tensor()), {"0": VALUES}, without=("version",), extra={".data/version": b"11\n"}
        ),
        "F004",
        "newer than 10",
    ),
    "a version that is no number": (
        lambda forge: forge.archive(
            forge.state(w=forge.tensor()), {"0": VALUES}, without=("version",), extra={".data/version": b"x"}
        ),
        "F002",
        "which is no number",
    ),
}

TENSORS: dict[str, tuple[Callable[[Any], Path], str, str]] = {
    "a storage without a record": (pickled(lambda f: f.state(w=f.tensor(key="9"))), "F002", "does not have"),
    "a storage in another folder": (pickled(lambda f: f.state(w=f.tensor(key="../version"))), "F002", "does not have"),
    "a storage longer than its record": (
        pickled(lambda f: f.state(w=f.tensor(elements=5, shape=(5,)))),
        "F002",
        "has 16 bytes where the pickle says 20",
    ),
    "a storage shorter than its record": (
        pickled(lambda f: f.state(w=f.tensor(elements=3, shape=(3,)))),
        "F002",
        "has 16 bytes where the pickle says 12",
    ),
    "a storage of two lengths": (
        pickled(lambda f: f.state(v=f.tensor(), w=f.tensor(elements=2**40, shape=(1,)))),
        "F002",
        "has 16 bytes where the pickle says",
    ),
    "a storage of no known class": (
        pickled(lambda f: f.state(w=f.tensor(storage_class="torch OddStorage"))),
        "F002",
        "unknown class 'torch.OddStorage'",
    ),
    "a storage of a negative length": (
        pickled(lambda f: f.state(w=f.tensor(elements=-4))),
        "F002",
        "without a short name or a length",
    ),
    "a shape beyond the storage": (pickled(lambda f: f.state(w=f.tensor(shape=(5,)))), "F002", "reaches to byte 20"),
    "strides beyond the storage": (
        pickled(lambda f: f.state(w=f.tensor(shape=(2, 2), stride=(3, 1)))),
        "F002",
        "reaches to byte 20",
    ),
    "an offset beyond the storage": (pickled(lambda f: f.state(w=f.tensor(offset=1))), "F002", "reaches to byte 20"),
    "a negative offset": (pickled(lambda f: f.state(w=f.tensor(offset=-1))), "F002", "not natural numbers"),
    "a negative stride": (pickled(lambda f: f.state(w=f.tensor(stride=(-1,)))), "F002", "not natural numbers"),
    "a negative size": (pickled(lambda f: f.state(w=f.tensor(shape=(-1,)))), "F002", "not natural numbers"),
    "a size of 2^64": (pickled(lambda f: f.state(w=f.tensor(shape=(2**64,)))), "F002", "not natural numbers"),
    "fewer strides than sizes": (
        pickled(lambda f: f.state(w=f.tensor(shape=(2, 2), stride=(1,)))),
        "F002",
        "2 dimensions with 1 strides",
    ),
    "a thousand dimensions": (
        pickled(lambda f: f.state(w=f.tensor(shape=(1,) * 1000, stride=(1,) * 1000))),
        "F002",
        "at most 64 dimensions",
    ),
    "a truth value for a size": (
        pickled(lambda f: f.state(w=f.tensor()).replace(b"(\x8a\x01\x04t", b"(\x88t")),
        "F002",
        "not natural numbers",
    ),
    "2^40 elements by a stride of zero": (
        pickled(lambda f: f.state(w=f.tensor(shape=(2**40,), stride=(0,)))),
        "F003",
        "out of 16 stored",
    ),
    "2^200 elements by strides of zero": (
        pickled(lambda f: f.state(w=f.tensor(shape=(2**50,) * 4, stride=(0,) * 4))),
        "F003",
        "out of 16 stored",
    ),
    "many tensors that expand a little each": (
        pickled(
            lambda f: f.state(
                **{f"w{n}": f.tensor(offset=n % 4, shape=(2**24 - n // 4,), stride=(0,)) for n in range(40)}
            )
        ),
        "F003",
        "all tensors would take",
    ),
    "an element type without a meaning": (
        pickled(lambda f: f.state(w=f.tensor(storage_class="torch.storage UntypedStorage", elements=16))),
        "F002",
        "without an element type",
    ),
    "a conj bit on real numbers": (
        pickled(lambda f: f.state(w=f.tensor(metadata=b"}" + f.text("conj") + b"\x88s"))),
        "F004",
        "tensor 'w' is a tensor of float32 with torch's conj or neg bit",
    ),
    "unknown metadata": (
        pickled(lambda f: f.state(w=f.tensor(metadata=b"}" + f.text("run") + b"\x88s"))),
        "F002",
        "metadata other than torch's",
    ),
    "a name that is not Unicode": (
        pickled(lambda f: f.state(**{"\ud800": f.tensor()})),
        "F002",
        r"the name '\ud800', which is not Unicode",
    ),
}


@pytest.mark.parametrize("case", CONTAINERS)
def test_archive_when_another_reader_could_see_another_then_is_refused(case, forge, refusal):
    make, rule, found = CONTAINERS[case]
    error = refusal(make(forge))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


@pytest.mark.parametrize("case", TENSORS)
def test_tensor_when_it_does_not_fit_its_storage_then_is_refused(case, forge, refusal):
    make, rule, found = TENSORS[case]
    error = refusal(make(forge))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_forged_files_when_left_unbroken_then_are_good_to_torch_and_here(forge):
    path = forge.file(good(forge))
    with open_checkpoint(path) as checkpoint:
        tensor = checkpoint.tensors["w"]
        assert bytes(checkpoint.values(tensor)) == VALUES
    loaded = torch.load(path, weights_only=True)["w"]
    assert loaded.numpy().tobytes() == VALUES


def test_second_pickle_when_by_the_same_name_then_is_refused(forge, refusal):
    path = forge.archive(forge.state(w=forge.tensor()), {"0": VALUES})
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("forged/data.pkl", b"\x80\x02}.")
    error = refusal(path)
    assert error.rule == "F002"
    assert "one name to some readers" in str(error)


def test_unicode_path_when_in_the_extra_field_then_is_refused(forge, refusal):
    path = forge.folder / "forged.pt"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("forged/data.pkl")
        other = b"other/data.pkl"
        field = b"\x01" + struct.pack("<I", zlib.crc32(b"forged/data.pkl")) + other
        entry.extra = struct.pack("<2H", 0x7075, len(field)) + field
        archive.writestr(entry, forge.state(w=forge.tensor()))
    error = refusal(path)
    assert error.rule == "F002"
    assert "a second name" in str(error)


def test_folders_when_listed_as_records_then_are_passed_over(forge):
    path = forge.archive(forge.state(w=forge.tensor()), {"0": VALUES}, extra={"": b"", "data/": b""})
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_archive_when_packed_again_by_another_tool_then_reads_the_same(save, tmp_path):
    original = save({"w": torch.randn(5), "half": torch.randn(6)[::2]})
    again = tmp_path / "again.pt"
    with zipfile.ZipFile(original) as source, zipfile.ZipFile(again, "w") as target:
        for name in reversed(source.namelist()):
            target.writestr(name, source.read(name))
    with open_checkpoint(original) as one, open_checkpoint(again) as other:
        assert one.tensors != other.tensors
        for name, tensor in one.tensors.items():
            assert one.digest(tensor) == other.digest(other.tensors[name])


def test_archive_when_written_to_a_stream_then_is_read(forge):
    class Stream(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise OSError

        def tell(self) -> int:
            raise OSError

    stream = Stream()
    records = {"data.pkl": forge.state(w=forge.tensor()), "data/0": VALUES, "version": b"3\n"}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in records.items():
            archive.writestr(f"forged/{name}", data)
    with open_checkpoint(forge.file(stream.getvalue())) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == VALUES


def test_checksums_when_torch_was_told_to_leave_them_out_then_none_is_missed(save):
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"w": torch.ones(3)})
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_many_tensors_when_expanded_as_models_do_then_are_listed(save):
    bias = torch.zeros(1)
    with open_checkpoint(save({f"b{n}": bias.expand(1024) for n in range(64)})) as checkpoint:
        assert len(checkpoint.tensors) == 64
        assert checkpoint.tensors["b0"].stride == (0,)

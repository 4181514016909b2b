"""The form of torch.save before torch 1.6: what is read out of it, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from manifest.checkpoint import open_checkpoint

VALUES = bytes(range(16))
NO_VIEW = b"N"


@pytest.fixture
def save_legacy(save) -> Callable[..., Path]:
    return lambda value, **options: save(value, _use_new_zipfile_serialization=False, **options)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_file_when_saved_by_any_protocol_then_lists_the_weights_in_stored_order(save_legacy, protocol):
    state = {"b": torch.ones(2), "a": torch.arange(3)}
    with open_checkpoint(save_legacy({"state_dict": state, "epoch": 3}, pickle_protocol=protocol)) as checkpoint:
        assert list(checkpoint.tensors) == ["b", "a"]
        assert (checkpoint.state_path, checkpoint.extras) == (("state_dict",), ("epoch",))


def test_tied_weights_and_views_when_of_one_storage_then_share_its_bytes(save_legacy):
    flat = torch.arange(12.0)
    state = {"whole": flat, "tied": flat, "part": flat[4:8].reshape(2, 2), "turned": flat.reshape(3, 4).t()}
    with open_checkpoint(save_legacy(state)) as checkpoint:
        assert checkpoint.aliases() == {"tied": "whole"}
        assert len({tensor.storage for tensor in checkpoint.tensors.values()}) == 1
        assert bytes(checkpoint.values(checkpoint.tensors["part"])) == flat[4:8].numpy().tobytes()
        assert checkpoint.tensors["turned"].stride == (1, 4)


def test_optimizer_when_beside_model_state_then_its_tensors_are_no_weights(save_legacy):
    model = torch.nn.LSTM(3, 4)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 1, 3))[0].sum().backward()
    optimizer.step()
    saved = {"step": 1, "model_state": model.state_dict(), "optimizer_state": optimizer.state_dict()}
    with open_checkpoint(save_legacy(saved)) as checkpoint:
        assert list(checkpoint.tensors) == list(model.state_dict())
        assert checkpoint.state_path == ("model_state",)
        assert checkpoint.extras == ("step", "optimizer_state")


def test_devices_when_tensors_were_on_several_then_all_are_listed(forge):
    state = forge.state(v=forge.tensor("a", view=NO_VIEW), w=forge.tensor("b", view=NO_VIEW))
    path = forge.legacy(state.replace(forge.text("cpu"), forge.text("cuda:0"), 1), {"b": VALUES, "a": VALUES[::-1]})
    with open_checkpoint(path) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["v"])) == VALUES[::-1]
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == VALUES


def test_strings_when_of_python_2_then_are_read(forge):
    def short(text: str) -> bytes:
        return b"U" + bytes([len(text)]) + text.encode()

    state = forge.state(w=forge.tensor(view=NO_VIEW))
    for text in ("storage", "0", "cpu", "w"):
        state = state.replace(forge.text(text), short(text))
    keys = b"\x80\x02](" + short("0") + b"e."
    with open_checkpoint(forge.legacy(state, {"0": VALUES}, keys=keys)) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == VALUES


def test_storage_when_a_view_of_another_then_is_the_part_that_torch_reads(forge):
    view = b"(" + forge.text("7") + forge.number(1) + forge.number(2) + b"t"
    state = forge.state(w=forge.tensor(shape=(1,), offset=1, view=view))
    path = forge.legacy(state, {"0": VALUES})
    with open_checkpoint(path) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == VALUES[8:12]
    assert torch.load(path, weights_only=True)["w"].numpy().tobytes() == VALUES[8:12]


def test_forged_file_when_left_unbroken_then_is_good_to_torch_and_here(forge):
    path = forge.legacy(forge.state(w=forge.tensor(view=NO_VIEW)), {"0": VALUES})
    with open_checkpoint(path) as checkpoint:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == VALUES
    assert torch.load(path, weights_only=True)["w"].numpy().tobytes() == VALUES


def state(forge: Any, **options: Any) -> bytes:
    return forge.state(w=forge.tensor(**{"view": NO_VIEW, **options}))


def good(forge: Any, **options: Any) -> Path:
    return forge.legacy(state(forge), {"0": VALUES}, **options)


def cut(forge: Any, count: int) -> Path:
    return forge.file(good(forge).read_bytes()[:-count])


def counted(forge: Any, count: int) -> Path:
    data = good(forge).read_bytes()
    return forge.file(data[: -len(VALUES) - 8] + struct.pack("<q", count) + VALUES)


def view(forge: Any, offset: int, length: int) -> bytes:
    return b"(" + forge.text("7") + forge.number(offset) + forge.number(length) + b"t"


BROKEN: dict[str, tuple[Callable[[Any], Path], str, str]] = {
    "ending within the values": (lambda f: cut(f, 1), "F002", "claims 16 bytes, and 15 are left"),
    "ending within a count": (lambda f: cut(f, 17), "F002", "ends before the length of storage '0'"),
    "ending before the counts": (lambda f: cut(f, 24), "F002", "ends before the length of storage '0'"),
    "ending within the fifth pickle": (lambda f: cut(f, 26), "F002", "cut short"),
    "without a fifth pickle": (lambda f: f.legacy(state(f), keys=b""), "F002", "the file ends where the next"),
    "values in place of the fifth pickle": (
        lambda f: f.legacy(state(f), keys=struct.pack("<q", 4) + VALUES),
        "F002",
        "unknown opcode",
    ),
    "without an object": (lambda f: f.legacy(b"", keys=b""), "F002", "the file ends where the next"),
    "an object cut off": (lambda f: f.legacy(state(f)[:-20], keys=b""), "F002", "cut short"),
    "bytes after the end": (lambda f: good(f, tail=b"run"), "F002", "3 bytes after the last storage"),
    "a second file appended": (lambda f: f.file(good(f).read_bytes() * 2), "F002", "after the last storage"),
    "a count of nothing": (lambda f: counted(f, 0), "F002", "has 0 elements where the pickle says 4"),
    "a negative count": (lambda f: counted(f, -4), "F002", "has -4 elements where the pickle says 4"),
    "a count of 2^62": (lambda f: counted(f, 2**62), "F002", "4,611,686,018,427,387,904 elements where"),
    "a count of bytes": (lambda f: counted(f, 16), "F002", "has 16 elements where the pickle says 4"),
    "counts of 2^61 in both places": (
        lambda f: f.file(
            f.legacy(state(f, elements=2**61), {"0": b""}).read_bytes()[:-8] + struct.pack("<q", 2**61) + VALUES
        ),
        "F002",
        "claims 9,223,372,036,854,775,808 bytes, and 16 are left",
    ),
    "another magic number": (
        lambda f: good(f, magic=b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02N."),
        "F002",
        "the version is not 1001",
    ),
    "a magic number that is only passed over": (
        lambda f: good(f, magic=b"\x80\x02C\x0d\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.N\x86."),
        "F002",
        "the magic number is not",
    ),
    "another version": (lambda f: good(f, version=b"\x80\x02M\xea\x03."), "F002", "the version is not 1001"),
    "a version that is a truth value": (lambda f: good(f, version=b"\x80\x02\x88."), "F002", "is not 1001"),
    "an endless version": (
        lambda f: good(f, version=b"\x80\x02T\xff\xff\x01\x00" + bytes(131_071) + b"."),
        "F003",
        "goes on after byte",
    ),
    "sizes that are none": (lambda f: good(f, sizes=b"\x80\x02]."), "F002", "the third pickle is a list"),
    "a call among the sizes": (
        lambda f: good(f, sizes=b"\x80\x02cos\nsystem\n" + f.text("id") + b"\x85R."),
        "F002",
        "names a global, 'os.system', where torch.save writes plain values",
    ),
    "a storage among the keys": (
        lambda f: good(f, keys=b"\x80\x02" + f.storage(view=NO_VIEW) + b"."),
        "F002",
        "around the object has a persistent id",
    ),
    "keys that are no list": (lambda f: good(f, keys=b"\x80\x02}."), "F002", "no list of storage keys"),
    "keys that are no strings": (lambda f: good(f, keys=b"\x80\x02]K\x00a."), "F002", "no list of storage keys"),
    "a key left out": (lambda f: f.legacy(state(f), keys=b"\x80\x02]."), "F002", "storage '0', which does not follow"),
    "a key twice": (
        lambda f: f.legacy(state(f), {"0": VALUES}, keys=b"\x80\x02](" + f.text("0") * 2 + b"e."),
        "F002",
        "a storage key twice",
    ),
    "a key too many": (
        lambda f: f.legacy(state(f), {"0": VALUES, "1": VALUES}),
        "F002",
        "storage '1' follows, which the pickle does not refer to",
    ),
    "another key": (lambda f: f.legacy(state(f), {"1": VALUES}), "F002", "storage '1' follows"),
    "a storage of two lengths": (
        lambda f: f.legacy(
            f.state(v=f.tensor(view=NO_VIEW), w=f.tensor(elements=2, shape=(2,), view=NO_VIEW)), {"0": VALUES}
        ),
        "F002",
        "two types or lengths",
    ),
    "a storage of two types": (
        lambda f: f.legacy(
            f.state(v=f.tensor(view=NO_VIEW), w=f.tensor(storage_class="torch IntStorage", view=NO_VIEW)),
            {"0": VALUES},
        ),
        "F002",
        "two types or lengths",
    ),
    "a persistent id of the zip form": (lambda f: f.legacy(state(f, view=b""), {"0": VALUES}), "F002", "persistent id"),
    "a view beyond its storage": (
        lambda f: f.legacy(state(f, view=view(f, 3, 2), shape=(1,)), {"0": VALUES}),
        "F002",
        "a view that reaches out of storage '0'",
    ),
    "a view of a negative offset": (
        lambda f: f.legacy(state(f, view=view(f, -1, 2), shape=(1,)), {"0": VALUES}),
        "F002",
        "without an offset and a length",
    ),
    "a tensor beyond its view": (
        lambda f: f.legacy(state(f, view=view(f, 1, 2), shape=(3,)), {"0": VALUES}),
        "F002",
        "reaches to byte 12 of storage '0', which has 8",
    ),
    "a tensor beyond its storage": (
        lambda f: f.legacy(state(f, shape=(5,)), {"0": VALUES}),
        "F002",
        "reaches to byte 20",
    ),
    "2^40 elements by a stride of zero": (
        lambda f: f.legacy(state(f, shape=(2**40,), stride=(0,)), {"0": VALUES}),
        "F003",
        "out of 16 stored",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_legacy_file_when_broken_or_hostile_then_is_refused(case, forge, refusal):
    make, rule, found = BROKEN[case]
    error = refusal(make(forge))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_call_when_pickled_beside_the_weights_then_is_named_and_never_made(forge, tmp_path, strangers):
    trap = tmp_path / "trap"
    call = forge.named("io", "open") + b"(" + forge.text(str(trap)) + forge.text("w") + b"tR"
    path = forge.legacy(forge.state(w=forge.tensor(view=NO_VIEW), trap=call), {"0": VALUES})
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert strangers(checkpoint) == ("io.open",)
    assert not trap.exists()

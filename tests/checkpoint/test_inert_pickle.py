"""The pickle machine: it says what a pickle would make and call, and neither imports nor calls anything."""

from __future__ import annotations

import collections
import inspect
import pickle
import pickletools
import re
import struct
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._weights_only_unpickler as weights_only
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manifest.checkpoint import open_checkpoint
from manifest.checkpoint.pickles import pickle_vm as inert_pickle
from manifest.checkpoint.pickles.pickle_vm import Interpreted, interpret
from manifest.checkpoint.pickles.stand_ins import Global, Opaque
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.errors import CheckpointError

VALUES = bytes(range(16))


def run(data: bytes) -> Interpreted:
    objects = TorchObjects()
    return interpret(data, objects.constructors, objects.persistent)


scalars = (
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats(allow_nan=False) | st.text() | st.binary()
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(0, 1023), inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=200)
@given(plain, st.integers(0, 5))
def test_plain_value_when_pickled_by_any_protocol_then_comes_back(value, protocol):
    assume(protocol >= 3 or not _holds_empty_bytes(value))  # these are a call of `bytes`, which gives a stand-in
    data = pickle.dumps(value, protocol)
    found = run(data)
    assert (found.root, found.end) == (value, len(data))
    # Below protocol 3, bytes are written as a call.
    assert set(found.globals) <= ({"_codecs.encode"} if protocol < 3 else set())


def _holds_empty_bytes(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_empty_bytes, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_empty_bytes, value))
    return value == b""


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_bytes_when_anything_then_give_a_value_or_a_refusal(data):
    try:
        run(b"\x80\x02" + data)
    except CheckpointError as error:
        assert error.rule in ("F002", "F003")


def test_allow_list_when_torch_allows_a_global_then_holds_it():
    assert set(weights_only._get_allowed_globals()) <= TorchObjects().constructors.keys()


def test_allow_list_when_a_name_can_run_code_then_does_not_hold_it():
    for name in ("getattr", "eval", "exec", "__import__", "open", "map", "type", "setattr", "print", "input"):
        assert f"builtins.{name}" not in TorchObjects().constructors


class Touch:
    """Creates a file when a real unpickler meets it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", range(2, 6))
def test_call_when_pickled_beside_the_weights_then_is_named_and_never_made(forge, tmp_path, strangers, protocol):
    trap = tmp_path / "trap"
    call = pickle.dumps(Touch(str(trap)), protocol)
    # A pickle within the dictionary, without its PROTO and FRAME in front and its STOP behind.
    call = call[2:-1] if protocol < 4 else call[11:-1]
    path = forge.archive(forge.state(w=forge.tensor(), trap=call), {"0": VALUES})
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.extras == ("trap",)
        assert strangers(checkpoint) == ("io.open",)
    assert not trap.exists()


CALLS: dict[str, tuple[Callable[[Any], bytes], tuple[str, ...]]] = {
    "GLOBAL and REDUCE": (lambda f: f.named("os", "system") + f.text("id") + b"\x85R", ("os.system",)),
    "STACK_GLOBAL": (lambda f: f.text("os") + f.text("system") + b"\x93" + f.text("id") + b"\x85R", ("os.system",)),
    "INST": (lambda f: b"(" + f.text("id") + b"ios\nsystem\n", ("os.system",)),
    "OBJ": (lambda f: b"(" + f.named("os", "system") + f.text("id") + b"o", ("os.system",)),
    "NEWOBJ": (lambda f: f.named("subprocess", "Popen") + f.text("id") + b"\x85\x81", ("subprocess.Popen",)),
    "NEWOBJ_EX": (lambda f: f.named("subprocess", "Popen") + b")}\x92", ("subprocess.Popen",)),
    "EXT1": (lambda _: b"\x82\x07)R", ("copyreg.extension_7",)),
    "a global that is never called": (lambda f: f.named("os", "system"), ("os.system",)),
    "a global that is dropped": (lambda f: f.named("os", "system") + b"0N", ("os.system",)),
    "the result of a call": (
        lambda f: f.named("builtins", "getattr") + f.named("os", "x") + f.text("system") + b"\x86R" + b")R",
        ("builtins.getattr", "os.x"),
    ),
    "items of an object": (lambda f: f.named("shelve", "open") + b")R" + f.text("k") + b"Ns", ("shelve.open",)),
    "state of an object": (lambda f: f.named("a", "B") + b")\x81}b", ("a.B",)),
    "a name of Python 2": (lambda f: f.named("__builtin__", "eval") + b")R", ("builtins.eval",)),
    "behind a safe function": (
        lambda f: (
            f.named("torch._tensor", "_rebuild_from_type_v2")
            + b"("
            + f.named("os", "system")
            + f.named("torch", "Tensor")
            + f.text("id")
            + b"\x85}tR"
        ),
        ("os.system",),
    ),
    "a name with an escape sequence": (lambda f: f.named("\x1b[31m", "x"), ("\x1b[31m.x",)),
    "a name that is not Unicode": (lambda f: f.text("\ud800") + f.text("x") + b"\x93", (r"\ud800.x",)),
}


@pytest.mark.parametrize("case", CALLS)
def test_global_when_outside_the_allow_list_then_is_named_however_it_is_written(case, forge, strangers):
    make, expected = CALLS[case]
    path = forge.archive(forge.state(w=forge.tensor(), x=make(forge)), {"0": VALUES})
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert strangers(checkpoint) == expected


MALFORMED: dict[str, tuple[Callable[[Any], bytes], str, str]] = {
    "empty": (lambda _: b"", "F002", "cut short"),
    "without an end": (lambda f: f.state(w=f.tensor())[:-1], "F002", "cut short"),
    "going on after its end": (lambda f: f.state(w=f.tensor()) + b"\x80\x02N.", "F002", "goes on after the pickle"),
    "leaving objects behind": (lambda f: b"\x80\x02N" + f.state(w=f.tensor())[2:], "F002", "left on its stack"),
    "an unknown opcode": (lambda _: b"\x80\x02\xff.", "F002", r"unknown opcode b'\xff' at byte 2"),
    "an unknown protocol": (lambda _: b"\x80\x06N.", "F002", "unknown protocol 6"),
    "an empty stack": (lambda _: b"\x80\x02R.", "F002", "takes more off its stack"),
    "an end without a mark": (lambda _: b"\x80\x02}u.", "F002", "takes more off its stack"),
    "a tuple of more than there is": (lambda _: b"\x80\x02N\x87.", "F002", "takes more off its stack"),
    "an unknown memo": (lambda _: b"\x80\x02h\x05.", "F002", "refers to object 5 before it exists"),
    "a text cut off": (lambda _: b"\x80\x02X\xff\xff\xff\x7fab.", "F002", "2,147,483,647 bytes were expected"),
    "a frame beyond the end": (lambda _: b"\x80\x04\x95" + b"\xff" * 8 + b"N.", "F002", "more than it has left"),
    "a text that is not UTF-8": (lambda _: b"\x80\x02X\x01\x00\x00\x00\xff.", "F002", "bad value"),
    "a number of 5,000 digits": (lambda _: b"L" + b"9" * 5000 + b"L\n.", "F003", "a number of 5,001 characters"),
    "a number of 300 bytes": (lambda _: b"\x8b\x2c\x01\x00\x00" + bytes(300) + b".", "F003", "integer of 300 bytes"),
    "a key without a value": (lambda _: b"\x80\x02}(Nu.", "F002", "a key without a value"),
    "keys of a list": (lambda _: b"\x80\x02]NNs.", "F002", "sets keys of a list"),
    "appending to a dictionary": (lambda _: b"\x80\x02}Na.", "F002", "appends to a dict"),
    "calling a number": (lambda _: b"\x80\x02K\x01)R.", "F002", "calls a int"),
    "calling with a list": (lambda f: f.named("a", "b") + b"]R.", "F002", "calls with a list"),
    "changing a class itself": (lambda f: f.named("torch", "Tensor") + b"}b.", "F002", "changes 'torch.Tensor' itself"),
    "a global by numbers": (lambda _: b"\x80\x04K\x01K\x02\x93.", "F002", "by other things than strings"),
    "a global with an endless name": (lambda f: f.named("x" * 2000, "y") + b".", "F003", "in more than 1,000"),
    "a buffer from elsewhere": (lambda _: b"\x80\x05\x97.", "F002", "a buffer from outside"),
    "a persistent id of protocol 0": (lambda _: b"Pstorage\n.", "F002", "persistent id of protocol 0"),
    "a persistent id of nothing known": (lambda f: b"\x80\x02" + f.text("x") + b"Q.", "F002", "is not of a storage"),
    "a tensor of no storage": (
        lambda f: f.named("torch._utils", "_rebuild_tensor_v2") + b"(NK\x00))\x89}tR.",
        "F002",
        "rebuilds a tensor from other things",
    ),
    "a parameter of nothing": (
        lambda f: f.named("torch._utils", "_rebuild_parameter") + b")R.",
        "F002",
        "a parameter without data",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_pickle_when_a_real_unpickler_would_stumble_then_is_refused(case, forge, refusal):
    make, rule, found = MALFORMED[case]
    error = refusal(forge.archive(make(forge)))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_dictionary_when_it_holds_itself_then_is_read(forge):
    state = b"\x80\x02}q\x00(" + forge.text("state_dict") + b"h\x00" + forge.text("w") + forge.tensor() + b"u."
    with open_checkpoint(forge.archive(state, {"0": VALUES})) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]


def test_list_when_it_holds_itself_then_is_no_checkpoint(forge, refusal):
    assert refusal(forge.archive(b"\x80\x02]q\x00h\x00a.")).rule == "F001"


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    # Each tuple holds the one before twice, so that hashing or printing the last would take 2^200 steps.
    "a key doubled in itself": (lambda: b"\x80\x02}" + b")" + b"2\x86" * 200 + b"Ns.", "F003"),
    "keys doubled in themselves": (lambda: b"\x80\x02}(" + (b")" + b"2\x86" * 100 + b"N") * 20 + b"u.", "F003"),
    "a list nested without end": (lambda: b"\x80\x02" + b"(" * 200_000 + b".", "F003"),
    "lists in lists": (lambda: b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".", "F001"),
    "tuples in tuples": (lambda: b"\x80\x02)" + b"\x85" * 1_000_000 + b".", "F001"),
    "opcodes without end": (lambda: b"\x80\x02" + b"N0" * 9_000_000 + b"N.", "F003"),
    "objects without end": (lambda: b"\x80\x02" + b"]0" * 9_000_000 + b"N.", "F003"),
    "a long list passed again and again": (
        lambda: (
            b"\x80\x02ccollections\nOrderedDict\nq\x00]("
            + b"K\x01N\x86" * 100_000
            + b"e\x85q\x010"
            + b"h\x00h\x01R0" * 100_000
            + b"N."
        ),
        "F003",
    ),
    "a long name again and again": (
        lambda: (
            b"\x80\x04X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00" + b"h\x00h\x00\x930" * 99_999 + b"."
        ),
        "F003",
    ),
    "memo entries": (
        lambda: b"\x80\x02" + b"".join(b"Nr" + struct.pack("<I", 2**32 - 1 - n) + b"0" for n in range(500_000)) + b"N.",
        "F003",
    ),
    "a memo far away": (lambda: b"\x80\x02Nr\xff\xff\xff\xff.", "F003"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_pickle_when_it_would_cost_time_or_memory_without_end_then_ends_soon(case, forge, refusal):
    make, rule = BOMBS[case]
    # One that is not stopped takes years or all memory; there is nothing to measure.
    assert refusal(forge.archive(make())).rule == rule


def test_pickle_when_over_the_limit_then_is_not_read(forge, refusal):
    error = refusal(forge.archive(b"\x80\x02" + b"N0" * (1 << 24) + b"N."))
    assert error.rule == "F003"
    assert "over the limit of 33,554,432" in str(error)


def test_interpreting_when_globals_are_met_then_imports_nothing():
    before = set(sys.modules)
    value = run(b"cantigravity\nfly\n.").root
    assert value == Global("antigravity.fly")
    assert set(sys.modules) == before


def test_dictionary_when_its_keys_are_large_numbers_then_keeps_them_apart():
    # 2^61 - 1 is the modulus of Python's hash of numbers, so that these two, and any others a file holds, collide.
    found = run(
        b"\x80\x02}(" + pickle.dumps(2**61 - 1, 2)[2:-1] + b"N" + pickle.dumps(2 * (2**61 - 1), 2)[2:-1] + b"Nu."
    )
    assert [(key.kind, key.value) for key in found.root] == [("int", 2**61 - 1), ("int", 2 * (2**61 - 1))]


def test_memo_when_its_numbers_have_holes_then_counts_as_a_real_unpickler_does():
    # PUT 5, then MEMOIZE, which counts what was remembered and so takes 1.
    data = b"\x80\x04K\x07q\x050K\x08\x940h\x05h\x01\x86."
    assert run(data).root == pickle._loads(data) == (7, 8)


def test_ordered_dictionary_when_given_pairs_as_python_2_did_then_is_a_dictionary():
    data = b"ccollections\nOrderedDict\n(](](S'a'\nI1\ne]" + b"(S'b'\nI2\neetR."
    assert run(data).root == collections.OrderedDict(a=1, b=2)


def test_object_when_built_by_an_unknown_class_then_keeps_its_name():
    made = run(b"ca\nB\n)\x81}b.").root
    assert isinstance(made, Opaque)
    assert made.name == "a.B"


def test_opcodes_when_of_the_protocol_of_torch_then_none_is_refused(save):
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        with open_checkpoint(save({"w": torch.ones(2), "epoch": 3, "name": "run"}, **options)) as checkpoint:
            assert checkpoint.contents.refused_opcodes == ()


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_opcodes_when_of_a_later_protocol_then_are_named_once_and_torch_refuses_them(save, options):
    path = save({"w": torch.ones(2), "v": torch.ones(3)}, pickle_protocol=4, **options)
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.contents.refused_opcodes) == {"FRAME", "SHORT_BINUNICODE", "MEMOIZE", "STACK_GLOBAL"}
        assert len(checkpoint.contents.refused_opcodes) == 4
    with pytest.warns(UserWarning, match="pickle protocol 4"), pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


def test_opcodes_when_forged_into_a_pickle_then_are_named(forge):
    odd = b"(" + forge.text("id") + b"ios\nsystem\n"
    with open_checkpoint(forge.archive(forge.state(w=forge.tensor(), x=odd + b"20"), {"0": VALUES})) as checkpoint:
        assert checkpoint.contents.refused_opcodes == ("INST", "DUP", "POP")


def test_refused_opcodes_when_listed_then_are_those_that_torch_does_not_handle():
    source = inspect.getsource(weights_only.Unpickler.load)
    compared = re.findall(r"key\[0\] (?:==|in) (.*):\n", source)
    handled = {name for text in compared for name in re.findall(r"([A-Z][A-Z0-9_]*)\[0\]", text)}
    refused = {opcode.name for opcode in pickletools.opcodes} - handled
    assert handled
    assert {opcode.decode("latin-1"): name for opcode, name in inert_pickle._REFUSED_BY_TORCH.items()} == {
        opcode.code: opcode.name for opcode in pickletools.opcodes if opcode.name in refused
    }


def test_opcodes_when_python_has_them_then_all_are_known():
    assert {bytes([code]) for code, handler in enumerate(inert_pickle._HANDLERS) if handler} == {
        opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.name != "STOP"
    }


GETATTR, OWNER, MEMBER = b"cbuiltins\ngetattr\n", b"cpkg.kinds\nKind\n", b"\x8c\x03RED"


@pytest.mark.parametrize(
    ("script", "globals_"),
    [
        (GETATTR + OWNER + MEMBER + b"\x86R", ("pkg.kinds.Kind", "pkg.kinds.Kind.RED")),
        (GETATTR + b"q\x00" + OWNER + MEMBER + b"\x86R0h\x00" + OWNER + MEMBER + b"\x86R", None),
        (GETATTR + b"\x94" + OWNER + MEMBER + b"\x86R" + b"h\x00\x86", "builtins.getattr"),
        (GETATTR + b"2" + OWNER + MEMBER + b"\x86R\x86", "builtins.getattr"),
        (GETATTR + b"(" + OWNER + MEMBER + b"ibuiltins\ngetattr\n\x86", "builtins.getattr"),
        (GETATTR + OWNER + b"\x8c\x04read" + b"\x86R", "builtins.getattr"),
        (GETATTR + OWNER + b"\x8c\x0b__GLOBALS__" + b"\x86R", "builtins.getattr"),
        (GETATTR + b"\x8c\x01x" + MEMBER + b"\x86R", "builtins.getattr"),
        (GETATTR + GETATTR + MEMBER + b"\x86R", "builtins.getattr"),
        (b"cfunctools\npartial\n" + GETATTR + OWNER + MEMBER + b"\x87R", "builtins.getattr"),
    ],
    ids=[
        "member", "twice", "kept", "duplicated", "by-inst", "lower-case", "dunder", "of-no-class", "of-itself", "bound"
    ],
)  # fmt: skip
def test_getattr_when_only_for_members_of_enumerations_then_these_are_named(script, globals_):
    found = run(b"\x80\x02" + script + b".").globals
    if isinstance(globals_, str):
        assert globals_ in found
    else:
        assert found == (globals_ or ("pkg.kinds.Kind", "pkg.kinds.Kind.RED"))

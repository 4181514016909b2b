"""The gate of safetensors: every lie a header can tell is refused under the right rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from manifest.checkpoint import open_checkpoint

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DATA = bytes(range(8))


def header(**tensors: Any) -> Callable[[Any], Path]:
    return lambda forge: forge.safetensors(json.dumps(tensors), DATA)


def changed(**fields: Any) -> Callable[[Any], Path]:
    return header(w={**ONE, **fields})


def raw(text: str | bytes, data: bytes = DATA, length: int | None = None) -> Callable[[Any], Path]:
    return lambda forge: forge.safetensors(text, data, length)


GOOD = json.dumps({"w": ONE})

CASES: dict[str, tuple[Callable[[Any], Path], str, str]] = {
    "header beyond the file": (raw(GOOD, length=4000), "F002", "claims 4,000 bytes"),
    "header over the limit": (raw(GOOD, length=2**62), "F003", "over the limit of 100,000,000"),
    "header cut off": (raw(GOOD, length=9), "F002", "not JSON"),
    "header of length 0": (raw(GOOD, length=0), "F002", "where '{' was expected"),
    "header that is a list": (raw("[1, 2]"), "F002", "where '{' was expected"),
    "header with a space in front": (raw(" " + GOOD), "F002", "where '{' was expected"),
    "header with more after it": (raw(GOOD + "{}"), "F002", "not JSON"),
    "header that nests without end": (raw('{"w":' + "[" * 200_000), "F002", "nests deeper"),
    "header that is not UTF-8": (raw(b'{"\xff": 1}'), "F002", "not JSON"),
    "header with NaN": (raw('{"w": NaN}'), "F002", "has NaN"),
    "header with a huge number": (raw('{"w": ' + "9" * 5000 + "}"), "F002", "not JSON"),
    "one name twice": (raw(f'{{"w": {json.dumps(ONE)}, "w": {json.dumps(ONE)}}}'), "F002", "key 'w' twice"),
    "one name twice by an escape": (raw('{"w": 1, "\\u0077": 2}'), "F002", "key 'w' twice"),
    "one field twice": (
        raw('{"w": {"dtype": "F32", "shape": [2], "shape": [1], "data_offsets": [0, 8]}}'),
        "F002",
        "key 'shape' twice",
    ),
    "a name that is not Unicode": (raw('{"\\ud800": 1}'), "F002", r"'\ud800' in a text, which is not Unicode"),
    "no tensor": (raw('{"__metadata__": {"a": "b"}}', b""), "F001", "lists no tensor"),
    "metadata that is no object": (raw('{"__metadata__": 3}'), "F002", "is not an object of strings"),
    "metadata that is no text": (raw('{"__metadata__": {"a": 3}}'), "F002", "has no string under 'a'"),
    "a tensor that is no object": (header(w=[1]), "F002", "exactly dtype, shape and data_offsets"),
    "a field missing": (header(w={"dtype": "F32", "shape": [2]}), "F002", "exactly dtype, shape and data_offsets"),
    "a field too many": (changed(stride=[1]), "F002", "exactly dtype, shape and data_offsets"),
    "an unknown element type": (changed(dtype="F\x1b32"), "F002", r"unknown element type 'F\x1b32'"),
    "an element type that is a number": (changed(dtype=3), "F002", "unknown element type 'int'"),
    "an element type torch lacks": (changed(dtype="F6_E2M3"), "F004", "torch has no type for"),
    "a negative size": (changed(shape=[-2]), "F002", "'shape' of tensor 'w' is not a list of natural"),
    "a truth value for a size": (changed(shape=[True, 2]), "F002", "'shape' of tensor 'w' is not a list"),
    "a fraction for a size": (changed(shape=[2.0]), "F002", "'shape' of tensor 'w' is not a list"),
    "a size of 2^63": (changed(shape=[2**63]), "F002", "'shape' of tensor 'w' is not a list"),
    "a shape that is no list": (changed(shape="2"), "F002", "'shape' of tensor 'w' is not a list"),
    "a thousand dimensions": (changed(shape=[1] * 1000), "F002", "1,000 dimensions"),
    "sizes whose product wraps around": (changed(shape=[2**33, 2**31]), "F002", "where its shape"),
    "a negative offset": (changed(data_offsets=[-8, 0]), "F002", "'data_offsets' of tensor 'w'"),
    "offsets the wrong way": (changed(data_offsets=[8, 0]), "F002", "which are no range"),
    "offsets beyond the file": (
        changed(data_offsets=[0, 16], shape=[4]),
        "F002",
        "ends 16 bytes into the data",
    ),
    "three offsets": (changed(data_offsets=[0, 4, 8]), "F002", "which are no range"),
    "a range longer than the shape": (changed(shape=[1]), "F002", "has 8 bytes where its shape [1] of float32 takes 4"),
    "an odd number of four-bit elements": (changed(dtype="F4", shape=[3]), "F002", "odd last dimension"),
    "an overlap": (header(v=ONE, w={"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}), "F002", "overlaps"),
    "a hole": (
        header(
            v={"dtype": "U8", "shape": [2], "data_offsets": [0, 2]},
            w={"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
        ),
        "F002",
        "2 bytes before tensor 'w' belong to no tensor",
    ),
    "bytes in front": (
        header(w={"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}),
        "F002",
        "4 bytes before tensor 'w'",
    ),
    "bytes at the end": (raw(GOOD, DATA + b"more"), "F002", "4 bytes at the end of the file"),
    "data cut off": (raw(GOOD, DATA[:-1]), "F002", "it is cut short, or its header is wrong: tensor"),
}


@pytest.mark.parametrize("case", CASES)
def test_header_when_it_lies_then_is_refused(case, forge, refusal):
    make, rule, found = CASES[case]
    error = refusal(make(forge))
    assert (error.rule, found in str(error)) == (rule, True), str(error)


def test_forged_files_when_left_unbroken_then_are_good_to_safetensors_and_here(forge):
    path = forge.safetensors(GOOD, DATA)
    with open_checkpoint(path) as checkpoint, safe_open(path, "pt") as other:
        assert bytes(checkpoint.values(checkpoint.tensors["w"])) == DATA
        assert other.get_tensor("w").numpy().tobytes() == DATA


def test_header_when_padded_with_spaces_then_is_read(forge):
    with open_checkpoint(forge.safetensors(GOOD + "   ", DATA)) as checkpoint:
        assert checkpoint.tensors["w"].shape == (2,)


def test_tensors_when_bytes_are_in_another_order_then_keep_that_of_the_header(forge):
    late = {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]}
    early = {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}
    with open_checkpoint(header(late=late, early=early)(forge)) as checkpoint:
        assert list(checkpoint.tensors) == ["late", "early"]
        assert bytes(checkpoint.values(checkpoint.tensors["late"])) == DATA[4:]


def test_header_when_it_is_all_brackets_then_is_over_the_limit(forge, refusal):
    error = refusal(forge.safetensors(b'{"w":[' + b"[]," * 9_000_000))
    assert error.rule == "F003"
    assert "brackets and commas" in str(error)

"""JSON out of a checkpoint: what every reader agrees on comes back, anything else is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.checkpoint import strict_json
from manifest.checkpoint.strict_json import read_object
from manifest.errors import CheckpointError

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)

REFUSED: dict[str, tuple[bytes, str]] = {
    "a key twice": (b'{"a": 1, "b": 2, "a": 1}', "the index has the key 'a' twice"),
    "a key twice, once escaped": (b'{"a": 1, "\\u0061": 1}', "has the key 'a' twice"),
    "a key twice within": (b'{"x": [{"a": 1, "a": 2}]}', "has the key 'a' twice"),
    "a hostile key twice": (b'{"\\u001b[2J": 1, "\\u001b[2J": 1}', r"has the key '\x1b[2J' twice"),
    "no number": (b'{"a": NaN}', "has NaN, which is not JSON"),
    "infinity": (b'{"a": [-Infinity]}', "has -Infinity, which is not JSON"),
    "a key that is not Unicode": (b'{"\\ud800": 1}', r"has '\ud800' in a text, which is not Unicode"),
    "a text that is not Unicode": (b'{"a": "\\udfff"}', r"has '\udfff' in a text, which is not Unicode"),
    "a text in a list that is not Unicode": (b'{"a": [["x", "\\uD800"]]}', r"has '\ud800' in a text, which is not"),
    "bytes that are not UTF-8": (b'{"a": "\xff"}', "is not JSON in UTF-8"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "is not JSON in UTF-8"),
    "a byte order mark": (b'\xef\xbb\xbf{"a": 1}', "is not JSON in UTF-8"),
    "lists without end": (b'{"a": ' + b"[" * 100_000, "nests deeper than any does"),
    "objects without end": (b'{"a": ' * 100_000, "nests deeper than any does"),
    "a number of 5,000 digits": (b'{"a": ' + b"9" * 5_000 + b"}", "is not JSON in UTF-8"),
    "something behind": (b'{"a": 1} {}', "is not JSON in UTF-8"),
    "a comma too many": (b'{"a": 1,}', "is not JSON in UTF-8"),
    "single quotes": (b"{'a': 1}", "is not JSON in UTF-8"),
    "a raw control character": (b'{"a": "\n"}', "is not JSON in UTF-8"),
    "nothing": (b"", "is not JSON in UTF-8"),
    "a list": (b"[{}]", "is a JSON list, where an object was expected"),
    "a text": (b'"{}"', "is a JSON str, where an object was expected"),
}


def malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}.", rule="F002")


@settings(max_examples=200)
@given(st.dictionaries(texts, values, max_size=5), st.booleans())
def test_object_when_written_by_json_then_comes_back(value, escaped):
    assert read_object(json.dumps(value, ensure_ascii=escaped).encode(), "the index", malformed) == value


@pytest.mark.parametrize("case", REFUSED)
def test_json_when_two_readers_could_differ_then_is_refused(case):
    raw, found = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        read_object(raw, "the index", malformed)
    assert caught.value.rule == "F002"
    assert str(caught.value).startswith("the index ")
    assert found in str(caught.value)
    assert str(caught.value).isprintable()


def test_text_when_of_a_pair_of_escapes_then_is_unicode():
    assert read_object(b'{"a": "\\ud83d\\ude00"}', "the index", malformed) == {"a": "\U0001f600"}


def test_structure_when_over_the_limit_then_is_not_read(monkeypatch):
    monkeypatch.setattr(strict_json, "_MOST_STRUCTURE", 5)
    assert read_object(b'{"a": [1, 2, 3]}', "the index", malformed) == {"a": [1, 2, 3]}
    with pytest.raises(CheckpointError, match="has 6 brackets and commas, over the limit of 5") as caught:
        read_object(b'{"a": [1, 2, 3, 4, 5]}', "the index", malformed)
    assert caught.value.rule == "F003"

"""Names and shapes that someone made up cost bounded work and never more than an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifest.identification import index
from manifest.identification.identify import identify
from manifest.schema.name_ranges import fold

MANY = 12_000
HOSTILE = {
    "control characters": {f"a\x00b\n\x1b[31m{number}": (1,) for number in range(100)},
    "no Unicode": {f"\ud800.{number}": (1,) for number in range(100)},
    "numbers without end": {f"blocks.{'9' * 5000}{number}.weight": (1,) for number in range(100)},
    "numbers of other scripts": {f"blocks.٣{number}.weight": (1,) for number in range(100)},
    "parts without end": {("0." * 20_000) + str(number): (1,) for number in range(20)},
    "ranges": {f"a.{{0..999999}}.{{0..999999}}.{number}": (1,) for number in range(100)},
    "huge shapes": {f"blocks.{number}.mlp.fc1.weight": (10**5000, 1 << 80) for number in range(100)},
    "shapes of many dimensions": {f"blocks.{number}.mlp.fc1.weight": (1,) * 5000 for number in range(100)},
    "negative shapes": {f"blocks.{number}.mlp.fc1.weight": (-1,) for number in range(100)},
    "nothing but dots": {"." * number: (1,) for number in range(100)},
    "layers with great numbers": {
        f"encoder.layer.{10**8 - number}.output.dense.weight": (8, 8) for number in range(99)
    },
    "many layers": {f"text_model.encoder.layers.{number}.mlp.fc1.weight": (8, 8) for number in range(MANY)},
    "many names": {f"a{number}.{number}b.{number}": (number, number) for number in range(MANY)},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_names_when_identified_then_there_is_an_answer(kind: str) -> None:
    found = identify(HOSTILE[kind])
    assert not found.exact
    for candidate in found.candidates:
        assert candidate.fit.sentences(candidate.roles)


def test_tensors_beyond_any_model_when_identified_then_none_is_looked_at() -> None:
    shapes = {f"blocks.{number}.attn.qkv.weight": (1 << 70,) for number in range(100_000)}
    started = time.process_time()
    found = identify(shapes)
    assert time.process_time() - started < 1
    assert found.notes == ("There are 100,000 tensors, and no model that is known has a quarter as many.",)


@given(
    st.dictionaries(
        st.one_of(
            st.text(max_size=30),
            st.sampled_from(["visual.conv1.weight", "module.", "blocks.0.attn.qkv.weight", "params/img/x", "a.0.b"]),
        ),
        st.lists(st.integers(), max_size=4).map(tuple),
        max_size=20,
    )
)
@settings(max_examples=60)
def test_any_names_when_identified_then_what_is_stored_was_there(shapes: dict[str, tuple[int, ...]]) -> None:
    for candidate in identify(shapes).candidates:
        assert set(candidate.stored.values()) <= shapes.keys()


@given(st.dictionaries(st.text("ab.01*\0\n", max_size=6), st.lists(st.integers(0, 9), max_size=2).map(tuple)))
def test_fingerprint_when_the_order_differs_then_is_the_same(shapes: dict[str, tuple[int, ...]]) -> None:
    assert index.fingerprint(shapes) == index.fingerprint(dict(reversed(shapes.items())))


def test_names_with_numbers_in_another_spelling_when_folded_then_stay_as_they_are() -> None:
    names = ["a.00", "a.01", "a.٣", "a." + "9" * 5000]
    assert fold(names) == names

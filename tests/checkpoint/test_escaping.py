"""Text from files is shown so that it can neither hide nor act."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.escaping import printable, printable_list, writable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("visual.proj", "visual.proj"),
        ("größe", "größe"),
        ("a\nb", r"a\x0ab"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egnp.tp", r"\u202egnp.tp"),
        ("\u200fx", r"\u200fx"),
        ("back\\slash", r"back\x5cslash"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        ("", ""),
    ],
)
def test_text_when_shown_then_has_its_odd_characters_escaped(text, shown):
    assert printable(text) == shown


@given(st.text(st.characters()), st.integers(1, 100))
def test_text_when_anything_then_is_one_bounded_line(text, limit):
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown) <= 10 * limit
    shown.encode()


def test_text_when_long_then_says_that_more_follows():
    assert printable("x" * 81) == "x" * 79 + "…"
    assert printable("x" * 80) == "x" * 80


def test_list_when_long_then_shows_the_first_few():
    assert printable_list(["a", "b", "c"], most=2) == "'a', 'b', …"


def test_lone_surrogate_when_made_writable_then_is_its_escape():
    assert writable("a\ud800") == r"a\ud800"
    assert writable("ä") == "ä"

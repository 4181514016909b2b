"""Hostile and broken checkpoints of every container: each is opened, or refused in a sentence, and does nothing else.

What they are is in the tables of `fixtures/hostile`, and what is watched for is in `opening_under_guard.py`.
"""

from __future__ import annotations

import pytest

from manifest.escaping import printable

pytestmark = pytest.mark.xdist_group("hostile")  # each table is opened once, not once a worker

MOST_GROWTH = 300 << 20


def test_hostile_file_when_opened_then_ends_as_its_row_says_and_does_nothing_else(hostile_row, outcome, code_of):
    row, result = outcome(*hostile_row)
    assert "crash" not in result, result["crash"]
    assert result["events"] == []
    assert not result["canary"]
    assert not result["changed"]
    assert result["grown"] < MOST_GROWTH
    if "refused" in result:
        assert result["refused"] == row.verdict, result["sentence"]
        assert row.found in result["sentence"]
        assert_one_sentence(result)
    else:
        names = code_of(result["globals"])
        assert ("unsafe" if names else "safe") == row.verdict, names
        assert result["tensors"]
        assert row.found in ", ".join(names)


def assert_one_sentence(result) -> None:
    """It names the file, is one line that any terminal can show, and no traceback."""
    sentence, path = result["sentence"], result["path"]
    assert sentence.isprintable()
    assert len(sentence) < 2_500
    if result["refused"] == "InputError":
        assert printable(str(path), 1000) in sentence or sentence.startswith(f"{path.name} has ")
        return
    assert sentence.startswith(f"{printable(path.name)}: ")
    assert sentence.endswith(".")
    assert ". " not in sentence


def test_guard_when_a_file_is_really_unpickled_then_catches_it(child, hostile_forge):
    forge = hostile_forge()
    canary = forge.folder / "canary"
    path = forge.file(b"\x80\x02cos\nsystem\n" + forge.text(f"touch {canary}") + b"\x85R.")
    result = child([("planted", path)], "unpickle")["planted"]
    assert canary.exists()
    seen = {event.split()[0] for event in result["events"]}
    assert {"pickle.find_class", "os.system"} <= seen


def test_guard_when_a_file_is_written_then_catches_it(child, hostile_forge):
    forge = hostile_forge()
    canary = forge.folder / "canary"
    path = forge.file(b"\x80\x02cio\nopen\n" + forge.text(str(canary)) + forge.text("w") + b"\x86R.")
    result = child([("planted", path)], "unpickle")["planted"]
    assert any(event.startswith("open ") and "'w'" in event for event in result["events"])


def test_guard_when_memory_is_wasted_then_sees_it(child):
    assert child([("planted", "")], "waste")["planted"]["grown"] > MOST_GROWTH


def test_guard_when_a_row_does_not_end_then_ends_it_and_goes_on(child):
    results = child([("endless", ""), ("another", "")], "dawdle", seconds=0.5)
    assert all("TooSlow" in result["crash"] for result in results.values())
    assert len(results) == 2

"""Ranges of a file at an address: what is there afterwards, and what was asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from manifest.remote.mirror import _GAP, RemoteFile

SIZE = 100_000
CONTENT = bytes(number * 31 % 251 for number in range(SIZE))
RANGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda ends: (min(ends), max(ends)))


class Memory:
    """A source of bytes that counts how often each was asked for."""

    def __init__(self, head: int) -> None:
        self.size = SIZE
        self.head = CONTENT[:head]
        self.times = bytearray(SIZE)

    def read(self, start: int, end: int) -> bytes:
        for place in range(start, end):
            self.times[place] += 1
        return CONTENT[start:end]

    def require_unchanged(self) -> None:
        """It never changes."""


@given(st.integers(0, SIZE), st.lists(st.lists(RANGES, max_size=4), max_size=5))
def test_ranges_that_were_needed_are_there_and_no_byte_was_fetched_twice(
    head: int, needs: list[list[tuple[int, int]]]
) -> None:
    source = Memory(head)
    with tempfile.TemporaryDirectory() as folder:
        file = RemoteFile(source, Path(folder) / "file")
        for ranges in needs:
            file.need(ranges)
            found = file.path.read_bytes()
            assert len(found) == SIZE
            assert all(found[start:end] == CONTENT[start:end] for start, end in ranges)
        assert max(source.times) <= 1
        assert not any(source.times[:head])
    wanted = sum(end - start for ranges in needs for start, end in ranges)
    assert sum(source.times) <= wanted + _GAP * sum(map(len, needs))


def test_range_from_its_first_byte_to_its_last_passes_through_and_is_not_kept(tmp_path: Path) -> None:
    file = RemoteFile(Memory(0), tmp_path / "file")
    assert b"".join(file.blocks(10, SIZE - 20)) == CONTENT[10 : SIZE - 10]
    assert not any(file.path.read_bytes())

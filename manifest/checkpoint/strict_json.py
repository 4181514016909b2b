"""JSON out of a checkpoint: strict, and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from manifest import strict_json
from manifest.errors import CheckpointError

_MOST_STRUCTURE = 16_000_000  # lists of nothing would take thirty times their bytes in memory


def read_object(raw: bytes, what: str, malformed: Callable[[str], CheckpointError]) -> dict[str, Any]:
    """A JSON object.

    Args:
        raw: Its bytes.
        what: What it is, for messages: "the safetensors header".
        malformed: Makes the error of what was found.

    Raises:
        CheckpointError: `F003` when over a limit, and what `malformed` makes of anything else.
    """
    structure = sum(raw.count(mark) for mark in (b"{", b"[", b","))
    if structure > _MOST_STRUCTURE:
        raise CheckpointError(
            f"{what} has {structure:,} brackets and commas, over the limit of {_MOST_STRUCTURE:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    try:
        return strict_json.read_object(raw)
    except strict_json.NotStrictError as error:
        raise malformed(f"{what} {error}") from None

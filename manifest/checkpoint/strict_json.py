"""JSON out of a checkpoint, read so that no two readers can see two things in it, and in bounded memory.

A key given twice, `NaN`, text that is not Unicode and nesting without end are refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NoReturn

from manifest.errors import CheckpointError
from manifest.escaping import printable

_MOST_STRUCTURE = 16_000_000  # lists of nothing would take thirty times their bytes in memory
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half of a character; UTF-8 itself cannot hold such a half."""


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

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Readers differ on which one of two they keep."""
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise malformed(f"{what} has the key '{printable(twice)}' twice")
        return result

    def no_constant(constant: str) -> NoReturn:
        raise malformed(f"{what} has {constant}, which is not JSON")

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_constant=no_constant)
        if _SURROGATE.search(raw):
            json.dumps(value, ensure_ascii=False).encode()
    except CheckpointError:
        raise
    except UnicodeEncodeError as error:
        found = printable(error.object[error.start : error.end])
        raise malformed(f"{what} has '{found}' in a text, which is not Unicode") from None
    except RecursionError:
        raise malformed(f"{what} nests deeper than any does") from None
    except ValueError as error:
        raise malformed(f"{what} is not JSON in UTF-8 ({printable(str(error))})") from None
    if not isinstance(value, dict):
        raise malformed(f"{what} is a JSON {type(value).__name__}, where an object was expected")
    return value

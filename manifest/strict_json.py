"""JSON read so that no two readers can see two things in it.

A key given twice, `NaN`, text that is not Unicode and nesting without end are refused.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from manifest.escaping import printable

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half of a character; UTF-8 itself cannot hold such a half."""


class NotStrictError(ValueError):
    """What is wrong with some JSON, as a clause of which the JSON is the subject: "has the key 'a' twice"."""


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object out of its bytes.

    Raises:
        NotStrictError: It is none, or readers would differ on it.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except NotStrictError:
        raise
    except UnicodeEncodeError as error:
        found = printable(error.object[error.start : error.end])
        raise NotStrictError(f"has '{found}' in a text, which is not Unicode") from None
    except RecursionError:
        raise NotStrictError("nests deeper than any does") from None
    except ValueError as error:
        raise NotStrictError(f"is not JSON in UTF-8 ({printable(str(error))})") from None
    if not isinstance(value, dict):
        raise NotStrictError(f"is a JSON {type(value).__name__}, where an object was expected")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ on which one of two they keep."""
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise NotStrictError(f"has the key '{printable(twice)}' twice")
    return result


def _no_constant(constant: str) -> NoReturn:
    raise NotStrictError(f"has {constant}, which is not JSON")

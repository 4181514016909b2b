"""Every field of a manifest, and twelve ways of writing something else there.

A field is a place in the JSON: a value, an object or a list. A list of numbers or names is one field, and so is each
object in a list; of lists of more than twelve like objects (tensors, layers) the first, one in the middle and the last
are taken, since each member has the same fields.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Place = tuple[str | int, ...]

_DROP = object()
_LONG = 12


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """All fields below a value."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield (*here, name)
            yield from places(item, (*here, name))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        chosen = range(len(value)) if len(value) <= _LONG else (0, len(value) // 2, len(value) - 1)
        for index in chosen:
            yield (*here, index)
            yield from places(value[index], (*here, index))


def at(content: Any, place: Place) -> Any:
    for step in place:
        content = content[step]
    return content


def mutated(content: Any, place: Place, name: str) -> Any:
    """A copy with one field changed; None where that changes nothing or cannot be done."""
    old = at(content, place)
    new = pickle.loads(pickle.dumps(content))  # ten times as fast as `copy.deepcopy`
    parent = at(new, place[:-1])
    value = MUTATIONS[name](old, parent, place[-1])
    if value is _DROP:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return None if new == content and type(value) is type(old) else new


def _empty(old: Any, *_: Any) -> Any:
    return {} if isinstance(old, dict) else [] if isinstance(old, list) else ""


def _huge(old: Any, *_: Any) -> Any:
    if isinstance(old, bool) or old is None:
        return 2**200
    if isinstance(old, int):
        return 10**30
    if isinstance(old, float):
        return 1e300
    if isinstance(old, str):
        return old + "x" * 100_000
    if isinstance(old, list):
        return [1e300 if isinstance(item, int | float) else item for item in old] if _numbers(old) else old * 1000
    return {**old, **{f"more{index}": index for index in range(1000)}}


def _negative(old: Any, *_: Any) -> Any:
    if isinstance(old, list) and _numbers(old):
        return [-old[0] or -1, *old[1:]]
    if isinstance(old, int | float) and not isinstance(old, bool):
        return -old or -1
    return -1


def _wrong_type(old: Any, *_: Any) -> Any:
    if isinstance(old, dict):
        return [old]
    if isinstance(old, list):
        return {"0": old}
    return 7 if isinstance(old, str) else "text"


def _other_length(old: Any, *_: Any) -> Any:
    if isinstance(old, bool) or old is None:
        return [old]
    if isinstance(old, int | float):
        return old + 1
    if isinstance(old, dict):
        return dict(list(old.items())[:-1]) if old else {"a": 1}
    if isinstance(old, list):
        return old[:-1] if old else ["a"]
    return old[:-1]


def _zero(old: Any, *_: Any) -> Any:
    if isinstance(old, list):
        return [0] * len(old)
    if isinstance(old, dict):
        return dict.fromkeys(old, 0)
    if isinstance(old, str):
        kind, colon, digits = old.rpartition(":")
        return f"{kind}{colon}{'0' * len(digits)}"
    return False if isinstance(old, bool) else 0


def _duplicate(old: Any, parent: Any, step: Any) -> Any:
    if isinstance(old, list):
        return [*old, *old[-1:]]
    if isinstance(old, dict):
        return {**old, **{f"{name}.copy": item for name, item in list(old.items())[:1]}}
    if isinstance(old, bool) or old is None:
        return not old
    del parent, step
    return old * 2


def _swapped(old: Any, parent: Any, step: Any) -> Any:
    """The field has what the next one beside it has, and that one what this one had."""
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    others = [key for key in keys if type(parent[key]) is type(old) and parent[key] != old]
    if not others:
        return old
    other = next((key for key in others if keys.index(key) > keys.index(step)), others[0])
    value, parent[other] = parent[other], old
    return value


def _unicode(old: Any, *_: Any) -> Any:
    strange = "\u202e\x1b[31m\n\ud800"
    if isinstance(old, list):
        return [*old, strange]
    if isinstance(old, dict):
        return {**old, strange: strange}
    return f"{old}{strange}" if isinstance(old, str) else strange


def _numbers(items: list[Any]) -> bool:
    return bool(items) and all(isinstance(item, int | float) and not isinstance(item, bool) for item in items)


MUTATIONS: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    "drop": lambda *_: _DROP,
    "null": lambda *_: None,
    "empty": _empty,
    "huge": _huge,
    "negative": _negative,
    "wrong type": _wrong_type,
    "NaN text": lambda *_: "NaN",
    "other length": _other_length,
    "zero": _zero,
    "duplicate": _duplicate,
    "swapped": _swapped,
    "unicode": _unicode,
}

"""What stands for objects in a pickle that is read without running it: names, objects made by them, and keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifest.errors import CheckpointError
from manifest.escaping import printable

Constructor = Callable[[tuple[Any, ...]], Any]
"""Gives the inert stand-in for a call with these arguments."""


@dataclass(frozen=True, slots=True)
class Class:
    """How a class makes objects, which is two things to a pickle.

    Attributes:
        call: What calling it gives: the opcode REDUCE.
        new: What its `__new__` gives, with no `__init__` after it: the opcode NEWOBJ.
    """

    call: Constructor
    new: Constructor


class Ordered(dict[Any, Any]):
    """An `OrderedDict`, which unlike a plain dictionary can have attributes."""

    __slots__ = ()


class Counted(dict[Any, Any]):
    """A `Counter`."""

    __slots__ = ()


class Members(list[Any]):
    """A set, as the list of what was put into it: nothing here asks what is in it, so its members are not hashed."""

    __slots__ = ()


class Stateless:
    """A stand-in of which nothing is told but what it is, so that no state makes a difference to it."""

    __slots__ = ()


class ByIdentity:
    """A stand-in of what is equal to itself alone, as a tensor is where it is the key of a dictionary."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a real unpickler would import."""

    name: str


@dataclass(slots=True, eq=False)
class Opaque:
    """What a real unpickler would have made by calling something.

    Attributes:
        name: What it would have called.
        arguments: What it would have called it with.
        state: What it would have set as the state of the result, usually a dictionary of its attributes.
        entries: What it would have set on the result as on a dictionary; None when nothing.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class OddKey:
    """A key of a dictionary that is no text and no small number.

    Two of them are equal where Python's are. They are told apart by text, whose hash has a secret: Python's hash of
    numbers and tuples has none, so that a file can make all of them collide.

    Attributes:
        kind: The name of its class here.
        value: What it is.
        text: What tells it from others.
    """

    kind: str
    value: Any
    text: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OddKey) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def as_key(value: Any) -> Any:
    """What stands for a value as the key of a dictionary, equal to what stands for others where the values are.

    Raises:
        CheckpointError: `F002` when it can be no key, `F004` when it is not known to which other keys it is equal.
    """
    if isinstance(value, _TEXTS) or (isinstance(value, int) and 0 <= value < _MOST_PLAIN_KEY):
        return value
    if isinstance(value, float) and value.is_integer() and 0 <= value < _MOST_PLAIN_KEY:
        return int(value)
    return OddKey(type(value).__name__, value, "".join(_key_parts(value)))


def _key_parts(key: Any) -> list[str]:
    """Texts that together tell a key from all others that are not equal to it."""
    parts: list[str] = []
    waiting = [key]
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            parts.append(f"({len(value)},")
            waiting += value
        else:
            parts.append(_key_part(value))
        if len(parts) + len(waiting) > MOST_KEY_PARTS:
            raise over_limit(f"the pickle has a key of more than {MOST_KEY_PARTS:,} parts")
    return parts


def _key_part(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    if isinstance(value, int):
        return f"{hex(value)},"  # True and 1 are the same key
    if isinstance(value, float) and not math.isnan(value):
        return f"{value!r},"
    if isinstance(value, _TEXTS):
        return f"{len(value or '')}{value!r},"
    if isinstance(value, Global):
        return f"g{len(value.name)}{value.name},"
    if isinstance(value, ByIdentity) or (isinstance(value, Opaque) and not value.name.startswith(_COMPARED)):
        return f"{id(value)}o,"
    if isinstance(value, list | dict):
        raise malformed(f"the pickle has a {type(value).__name__} as a key")
    raise inexact(f"the pickle has a {value.name if isinstance(value, Opaque) else kind_name(value)} as a key")


MOST_KEY_PARTS = 1_000


_TEXTS = (str, bytes, type(None))  # their hashes have a secret


_MOST_PLAIN_KEY = 1_024


_COMPARED = ("torch.device", "torch.storage.", "builtins.")  # of whose objects some are equal to others


def malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with torch.save.", rule="F002")


def inexact(found: str) -> CheckpointError:
    """The refusal of what a real unpickler might make something else of."""
    return CheckpointError(
        f"{printable(found, 300)}, which could not be read exactly as torch reads it; "
        "load it where it was written, and save its state_dict() anew with torch.save.",
        rule="F004",
    )


def over_limit(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; do not load this file unless you know who made it and why it is so.", rule="F003")


def kind_name(value: Any) -> str:
    """What a value is, for a message."""
    name = type(value).__name__
    return _KINDS.get(name, name)


_KINDS = {"Ordered": "OrderedDict", "Counted": "Counter", "Members": "set"}

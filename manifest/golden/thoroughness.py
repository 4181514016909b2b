"""How much time the numerics floor may take."""

from __future__ import annotations

from enum import StrEnum

from manifest.errors import InputError


class Thoroughness(StrEnum):
    """How much time the floor may take."""

    QUICK = "quick"
    FULL = "full"
    NONE = "none"


def as_thoroughness(value: Thoroughness | str) -> Thoroughness:
    """One of the three, by its name.

    Raises:
        InputError: There is no such one.
    """
    try:
        return Thoroughness(value)
    except ValueError:
        raise InputError(f"floor is {value!r}, expected 'quick', 'full' or 'none'; choose one.") from None

"""What a global that a pickle names would do: the kinds of effects, without the catalogue of names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    TENSORS = "tensors"
    """`torch.load(weights_only=True)` takes it by default."""
    DATA = "data"
    """torch refuses it by default; it makes plain values and runs nobody's code but its library's."""
    CODE = "code"
    """Known to run code, read or write files, open connections, or import at will."""
    UNKNOWN = "unknown"
    """Not known: importing and calling it runs whatever it is."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a global would do.

    Attributes:
        effect: Of which kind that is.
        does: A clause that completes "the pickle names X, which …"; it never holds text out of the file.
    """

    effect: Effect
    does: str

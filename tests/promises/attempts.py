"""One attempt to make the product say something untrue, as a row of the tables beside this file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Attempt:
    """What is tried, and what must come of it.

    Attributes:
        name: What is tried, in a few words; it is the test's id.
        make: Makes the attempt's input, or does it; what it takes and returns is said in its own table.
        exit: The exit status that it must end with: 0 passed, 1 something is wrong, 2 could not be checked.
        says: What must be found: a rule's code, or words of the message or verdict; None where nothing must be.
        before: What was said before it was mended; None where that was right already.
    """

    name: str
    make: Callable[..., Any]
    exit: int
    says: str | None = None
    before: str | None = None

    def __str__(self) -> str:
        return self.name

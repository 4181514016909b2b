"""What to say of a model name that a library does not know."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from manifest.errors import UnknownModelError


def unknown_model(library: str, asked: str, name: str, known: Sequence[str]) -> UnknownModelError:
    """The error for a name, with the nearest of those the library knows.

    Args:
        library: Which library; it has a `list_models`.
        asked: The name as it was given.
        name: The same as the library would look it up.
        known: The library's names.
    """
    nearest = nearest_names(name, known)
    hint = f"did you mean {' or '.join(nearest)}" if nearest else f"see `{library}.list_models()`"
    return UnknownModelError(f"{library.partition('.')[0]} has no model {asked!r}; {hint}?")


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3, cutoff=0.4)

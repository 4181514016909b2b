"""What to say of a model name that a library does not know."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from manifest.errors import UnknownModelError
from manifest.identification.candidates import LIBRARIES
from manifest.identification.index import named


def unknown_model(library: str, asked: str, name: str, known: Sequence[str]) -> UnknownModelError:
    """The error for a name, with the nearest of those the library knows.

    Args:
        library: Which library; it has a `list_models`.
        asked: The name as it was given.
        name: The same as the library would look it up.
        known: The library's names.
    """
    family = library.partition(".")[0]
    if other := next((each for each in LIBRARIES if each != family and named(each, name) is not None), None):
        hint = f"{other} has one of this name: `--family {other}`, in Python `family={other!r}`."
    elif nearest := nearest_names(name, known):
        hint = f"did you mean {' or '.join(nearest)}?"
    else:
        hint = f"see `{library}.list_models()`."
    return UnknownModelError(f"{family} has no model {asked!r}; {hint}")


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=3, cutoff=0.4)

"""What pydantic finds wrong with a document, as one clause; and the nearest of known names for one that is not known.

Of several faults the first is told, but a field that there is none of comes before one that is missing: mistyping a
name makes both.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

TOP = "the top"
"""Where a fault is that concerns all of a document."""
UNKNOWN_FIELD = "extra_forbidden"
"""pydantic's name for a field that there is none of."""
_LONGEST = 200


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a document.

    Attributes:
        where: The place, as keys and indices joined with dots; `TOP` for the document itself.
        what: A clause: what was found there, and what was expected.
        kind: pydantic's name for the kind of fault.
        found: The value that is there.
    """

    where: str
    what: str
    kind: str
    found: Any


def first_fault(error: ValidationError, model: type[BaseModel]) -> Fault:
    """The fault that is worth telling of those that pydantic found.

    Names out of the document are quoted as Python quotes them in `what`, and are as they are in `where`; both are cut.

    Args:
        error: What `model.model_validate` raised.
        model: The document's model.
    """
    faults = error.errors(include_url=False, include_context=False)
    fault = next((each for each in faults if each["type"] == UNKNOWN_FIELD), faults[0])
    place = [part for part in fault["loc"] if part != "[key]"]
    what = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == UNKNOWN_FIELD:
        what = unknown(f"there is no field {quoted(str(place[-1]))}", str(place[-1]), fields_at(model, place[:-1]))
    where = ".".join(map(str, place))[:_LONGEST] or TOP
    return Fault(where, what, fault["type"], fault.get("input"))


def unknown(clause: str, name: str, known: Iterable[str]) -> str:
    """A clause on a name that there is none of, followed by those that may have been meant, or by all of them."""
    everything = list(known)
    if nearest := nearest_names(name, everything):
        return f"{clause}, did you mean {' or '.join(nearest)}"
    return f"{clause}, expected one of {', '.join(everything)}" if everything else clause


def nearest_names(name: str, known: Iterable[str], most: int = 2) -> list[str]:
    """Known names like another, best first, whatever its case and what joins its words."""
    plain = {_plain(each): each for each in known}
    return [plain[each] for each in difflib.get_close_matches(_plain(name[:_LONGEST]), plain, n=most, cutoff=0.6)]


def fields_at(model: Any, place: Iterable[Any]) -> list[str]:
    """Names of the fields that a document's part may have, as they are written; none where that is no part."""
    for step in place:
        model = _inside(model, step)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _inside(model: type[BaseModel] | None, step: Any) -> type[BaseModel] | None:
    """The part under a key of another; an index leads to the part that a list is of."""
    if model is None or isinstance(step, int):
        return model
    fields = model.model_fields
    field = fields.get(step) or next((each for each in fields.values() if each.alias == step), None)
    return None if field is None else _part_of(field.annotation)


def _part_of(annotation: Any) -> type[BaseModel] | None:
    """The model in an annotation such as `tuple[Waiver, ...]` or `Waiver | None`."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((part for each in typing.get_args(annotation) if (part := _part_of(each)) is not None), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def quoted(text: str) -> str:
    """A name as it may stand in a message: quoted, escaped, and short."""
    return repr(text if len(text) <= 40 else f"{text[:39]}…")

"""Two hypotheses at once, as where both the photographs and the prompts were prepared otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from pydantic import BaseModel
from torch import nn

from manifest.families.protocol import Variant
from manifest.schema.document import Architecture


def together(one: Variant, other: Variant, base: Architecture) -> Variant | None:
    """Two hypotheses as one; None where they are of the same thing, one would undo the other, or one is tried alone.

    Args:
        base: The architecture that both begin from.
    """
    if one.name == other.name or one.alone or other.alone:
        return None
    of_images = one.concerns == other.concerns == "images"
    if of_images and (one.architecture is None or other.architecture is None):
        return None
    if one.state is not None and other.state is not None:
        return None
    try:
        architecture = _merged(base, one.architecture or base, other.architecture or base)
    except ValueError:
        return None
    return Variant(
        f"{one.name}, {other.name}",
        here=f"{one.here}, {other.here}",
        there=f"{one.there}, {other.there}",
        cure=f"{one.cure}; and {other.cure}",
        back=f"{one.back}; and {other.back}",
        architecture=None if architecture == base else architecture,
        preprocess=one.preprocess or other.preprocess,
        prepare=_in_turn(one.prepare, other.prepare),
        alter=_one_by_one(one.alter, other.alter),
        undo=_one_by_one(one.undo, other.undo),
        conclude=_concluded(one.conclude, other.conclude),
        state=one.state or other.state,
        concerns=one.concerns if one.concerns == other.concerns else None,
        native_mode=one.native_mode or other.native_mode,
        parts=(one, other),
    )


def _merged(base: Any, one: Any, other: Any) -> Any:
    """What two changes of the same thing come to.

    Raises:
        ValueError: Both change the same value, and not to the same.
    """
    if one in (base, other):
        return other
    if other == base:
        return one
    if isinstance(base, BaseModel):
        fields = {
            name: _merged(*(getattr(each, name) for each in (base, one, other))) for name in type(base).model_fields
        }
        return base.model_copy(update=fields)
    if isinstance(base, dict) and base.keys() == one.keys() == other.keys():
        return {name: _merged(base[name], one[name], other[name]) for name in base}
    raise ValueError("both change the same value")


def _in_turn(*steps: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    found = [step for step in steps if step is not None]
    return (lambda value: reduce(lambda so_far, step: step(so_far), found, value)) if found else None


def _one_by_one(*steps: Callable[[nn.Module], None] | None) -> Callable[[nn.Module], None] | None:
    found = [step for step in steps if step is not None]

    def all_of_them(module: nn.Module) -> None:
        for step in found:
            step(module)

    return all_of_them if found else None


def _concluded(*steps: Any) -> Any:
    found = [step for step in steps if step is not None]
    return (
        (lambda module, outputs: reduce(lambda so_far, step: step(module, so_far), found, outputs)) if found else None
    )

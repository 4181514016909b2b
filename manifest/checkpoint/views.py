"""Which of the weights in a checkpoint are meant, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from manifest.checkpoint.contents import StateDictCandidate
from manifest.checkpoint.names import OF_OPENAI, first_extras
from manifest.checkpoint.tensors import StoredTensor


@dataclass(frozen=True)
class View:
    """Which of the weights in a checkpoint are meant, and what they are called.

    Attributes:
        path: The keys that lead to them inside the object.
        within: What their stored names begin with where they are a part of those under the keys: a module in a larger
            one. They are called without it. Empty for all.
        names: Stored name, without that → name, where the writer of the file and the model do not agree.
    """

    path: tuple[str, ...]
    within: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


def seen(candidate: StateDictCandidate, view: View) -> dict[str, Any]:
    """A set of weights as a view shows it: fields of `Checkpoint`."""
    part = part_of(candidate, view.within)
    tensors, extras = renamed(part.tensors, view.names), part.extras
    if tensors.keys() >= OF_OPENAI and all(tensors[name].shape == () for name in OF_OPENAI):
        extras = (*extras, *sorted(OF_OPENAI))
        tensors = {name: tensor for name, tensor in tensors.items() if name not in OF_OPENAI}
    return {"view": view, "tensors": tensors, "prefix": part.prefix, "extras": extras, "unlisted": part.unlisted}


def renamed(tensors: dict[str, StoredTensor], names: Mapping[str, str]) -> dict[str, StoredTensor]:
    """Tensors by other names, each where no tensor has that name already."""
    called = {name: names[name] for name in tensors if name in names and names[name] not in tensors}
    return {called.get(name, name): tensor for name, tensor in tensors.items()} if called else tensors


def part_of(candidate: StateDictCandidate, within: str) -> StateDictCandidate:
    """Those tensors whose stored names begin so, the others being extras; all where none does."""
    inner = within[len(candidate.prefix) :] if within.startswith(candidate.prefix) else ""
    tensors = {name.removeprefix(inner): each for name, each in candidate.tensors.items() if name.startswith(inner)}
    if not inner or not tensors:
        return candidate
    unlisted = {name.removeprefix(inner): kind for name, kind in candidate.unlisted.items() if name.startswith(inner)}
    outside = dict.fromkeys(name.partition(".")[0] for name in candidate.tensors if not name.startswith(inner))
    return replace(
        candidate,
        tensors=tensors,
        prefix=within,
        unlisted=unlisted,
        extras=(*candidate.extras, *first_extras(list(outside), candidate.path)),
    )

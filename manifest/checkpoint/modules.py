"""The weights of a pickled module: what its state says without its class.

A module of Python keeps `_parameters`, `_buffers` and `_modules` in its state; one of TorchScript has everything as
attributes, and only its code says which of them are parameters and buffers. Names come out as those of `state_dict()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from manifest.checkpoint.pickles.stand_ins import Opaque, over_limit
from manifest.checkpoint.pickles.torch_objects import PickledComposite, PickledTensor, UnlistedTensor

_SCRIPTED = "__torch__."
_DEEPEST = 100
_MOST_SPENT = 64 << 20
_EACH = 16
_TENSORS = PickledTensor | PickledComposite | UnlistedTensor


class Walk:
    """What may still be looked at, over all modules of an object: a few of them can hold each other in endless ways."""

    def __init__(self) -> None:
        self._left = _MOST_SPENT

    def step(self, depth: int, characters: int) -> None:
        """Look at one more attribute, by a name of so many characters.

        Raises:
            CheckpointError: `F003` when it is one too many.
        """
        self._left -= _EACH + characters
        if self._left < 0 or depth > _DEEPEST:
            raise over_limit(f"the pickled module nests more than {_DEEPEST} deep, or in more ways than can be listed")


def is_module(value: Opaque) -> bool:
    """Whether an object is a pickled module, by its state."""
    if not isinstance(value.state, dict):
        return False
    return value.name.startswith(_SCRIPTED) or {"_parameters", "_modules"} <= value.state.keys()


def named_tensors(
    module: Opaque, persistent: Mapping[str, frozenset[str]] | None = None, *, walk: Walk | None = None
) -> dict[str, PickledTensor | PickledComposite | UnlistedTensor]:
    """Parameters and persistent buffers by their dotted names.

    Args:
        module: The module that holds all others.
        persistent: For modules of TorchScript, by class, which attributes its code calls parameters or buffers; all
            tensors count for a class that is not in it.
        walk: Shared by all modules of one object.

    Raises:
        CheckpointError: `F003` when modules nest in one another without end.
    """
    found: dict[str, PickledTensor | PickledComposite | UnlistedTensor] = {}
    waiting: list[tuple[Opaque, str, int]] = [(module, "", 0)]
    walk = walk or Walk()
    while waiting:
        owner, prefix, depth = waiting.pop()
        walk.step(depth, 0)
        children = []
        for name, value in _attributes(owner, persistent or {}):
            named = isinstance(value, _TENSORS | Opaque)
            walk.step(depth, len(prefix) + len(name) if named else 0)
            if isinstance(value, _TENSORS):
                found[prefix + name] = value
            elif isinstance(value, Opaque) and is_module(value):
                children.append((value, f"{prefix}{name}.", depth + 1))
        waiting += reversed(children)
    return found


def _attributes(module: Opaque, persistent: Mapping[str, frozenset[str]]) -> Iterator[tuple[str, Any]]:
    """Parameters, buffers and submodules of one module, by their own names."""
    state = module.state
    if module.name.startswith(_SCRIPTED):
        listed = persistent.get(module.name)
        for name, value in state.items():
            if isinstance(name, str) and (listed is None or isinstance(value, Opaque) or name in listed):
                yield name, value
        return
    transient = state.get("_non_persistent_buffers_set")
    hidden = {name for name in transient if isinstance(name, str)} if isinstance(transient, list | tuple) else set()
    for kind in ("_parameters", "_buffers", "_modules"):
        members = state.get(kind)
        for name, value in members.items() if isinstance(members, dict) else ():
            if isinstance(name, str) and not (kind == "_buffers" and name in hidden):
                yield name, value

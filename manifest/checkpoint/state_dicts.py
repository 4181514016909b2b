"""Where the weights are inside a checkpoint's object.

A checkpoint is a state dict, or holds one or several beside an optimizer, an epoch and the like; or it is a pickled
module, whose parameters and buffers are its weights. The keys tried are those that training scripts use. Tensors of
optimizers are never counted as weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from manifest.checkpoint import modules
from manifest.checkpoint.names import MOST_KEY_CHARACTERS, describe_key, first_extras
from manifest.checkpoint.pickles.stand_ins import Members, Opaque, over_limit
from manifest.checkpoint.pickles.torch_objects import PickledComposite, PickledTensor, UnlistedTensor
from manifest.checkpoint.tensors import MOST_TENSORS
from manifest.errors import CheckpointError, NoWeightsError
from manifest.escaping import printable, printable_list, writable

STATE_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "module")
"""Keys under which training scripts put the weights, the most usual first."""

BARE = "tensor"
"""The name given to a tensor that is saved without one."""

_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|average[ds]?|averaged|shadow|teacher)(_|$)", re.IGNORECASE)
"""Keys of averaged weights, as in `model_ema`, `ema_state_dict`, `swa`."""

_NO_WEIGHTS = re.compile(
    r"optim|(^|_)(opt|adam|sgd|momentum|grads?|gradients|schedulers?|sched|scaler|amp|callbacks|loops|rng|random)(_|$)",
    re.IGNORECASE,
)
"""Keys of things with tensors in them that are no weights: optimizers, schedulers, generators."""

_DEEPEST = 4
_MOST_STATES = 64
_MOST_TEXTS = 1_000
_SETTINGS = ("args", "hyper_parameters", "config", "opt")

_Value = TypeVar("_Value")
_Listed = PickledTensor | PickledComposite


@dataclass(frozen=True)
class FoundState:
    """One set of weights in an unpickled object; the attributes are those of `contents.Candidate`, names as stored."""

    tensors: Mapping[str, _Listed]
    path: tuple[str, ...]
    average: bool
    unlisted: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


def find_states(root: Any, globals: Sequence[str] = ()) -> list[FoundState]:
    """Every set of weights in an object, the one that is meant first: see `order`.

    Args:
        root: The object.
        globals: What the pickle of it names.

    Raises:
        NoWeightsError: It holds no weights: `F001`, or `F004` where that cannot be told.
        CheckpointError: `F004` when they are in a form that cannot be listed.
    """
    found = []
    beside: list[str] | None = None
    for value, path in _tensor_holders(root):
        if path and beside is None:
            beside = [describe_key(key) for key in _entries(root, modules.Walk()) or ()]
        found.append(_state(beside or [], value, path))
    if not found:
        raise _no_weights(root, tuple(globals))
    found.sort(key=order)
    if not found[0].tensors:
        name, kind = next(iter(found[0].unlisted.items()))
        raise CheckpointError(
            f"tensor '{printable(name)}' is {kind}, and none of the others has values that can be listed; "
            "save them as plain tensors.",
            rule="F004",
        )
    return found


def order(state: FoundState) -> tuple[Any, ...]:
    """By what one of several sets of weights is chosen, the least one first.

    Weights come before averages of weights; those at the top or under a usual key before those under any other; the
    more tensors the better; then the more usual key, the shorter path, and the alphabet decide.
    """
    ranks = [STATE_KEYS.index(key) if key in STATE_KEYS else len(STATE_KEYS) for key in state.path]
    return (
        state.average,
        len(STATE_KEYS) in ranks,
        -(len(state.tensors) + len(state.unlisted)),
        ranks,
        len(state.path),
        state.path,
    )


def as_state(entries: Mapping[str, Any], path: tuple[str, ...] = ()) -> FoundState:
    """A dictionary known to be the only set of weights there is."""
    return _state([], dict(entries), path)


def short_texts(root: Any) -> dict[str, str | bool]:
    """Texts and switches at the top of an object, and in the settings that training scripts keep there."""
    found: dict[str, str | bool] = {}
    for place in ((), *((key,) for key in _SETTINGS)):
        value = root if not place else root.get(place[0]) if isinstance(root, dict) else None
        if isinstance(value, Opaque):
            value = value.state if isinstance(value.state, dict) else value.entries
        for key, item in (value if isinstance(value, dict) else {}).items():
            short = isinstance(item, bool) or (isinstance(item, str) and 0 < len(item) <= MOST_KEY_CHARACTERS)
            if short and isinstance(key, str) and len(key) <= MOST_KEY_CHARACTERS and len(found) < _MOST_TEXTS:
                found[".".join((*place, key))] = item
    return found


def _entries(value: Any, walk: modules.Walk) -> dict[Any, Any] | None:
    """What a value holds by key, if anything: a dictionary, one of an unknown class, a list, or a module."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        if len(value) > MOST_TENSORS or isinstance(value, Members):  # a set has no order to name its members by
            return None
        return {str(index): item for index, item in enumerate(value)}
    if isinstance(value, Opaque):
        if modules.is_module(value):
            return modules.named_tensors(value, walk=walk)
        return value.entries
    return None


def _tensor_holders(root: Any) -> Iterator[tuple[dict[Any, Any], tuple[str, ...]]]:
    """Everything in an object that holds tensors by name, each once, with the keys that lead to it."""
    if isinstance(root, _Listed | UnlistedTensor):
        yield {BARE: root}, ()
        return
    seen = {id(root)}
    waiting: list[tuple[Any, tuple[str, ...]]] = [(root, ())]
    walk = modules.Walk()
    states = 0
    for value, path in waiting:
        entries = _entries(value, walk)
        if entries is None or {"state", "param_groups"} <= entries.keys():
            continue
        if _names_tensors(entries):
            states += 1
            if states > _MOST_STATES:
                raise over_limit(f"it holds more than {_MOST_STATES} sets of tensors")
            yield entries, path
        if len(path) < _DEEPEST and not (isinstance(value, Opaque) and modules.is_module(value)):
            for key, inner in entries.items():
                if (
                    isinstance(inner, dict | list | tuple | Opaque)
                    and inner
                    and id(inner) not in seen
                    and not (isinstance(key, str) and _NO_WEIGHTS.search(key))
                ):
                    seen.add(id(inner))
                    waiting.append((inner, (*path, describe_key(key))))


def _names_tensors(entries: dict[Any, Any]) -> bool:
    """Whether it holds tensors, all of them by name."""
    keys = [key for key, value in entries.items() if isinstance(value, _Listed | UnlistedTensor)]
    return bool(keys) and all(isinstance(key, str) for key in keys)


def _state(beside: Iterable[str], entries: dict[Any, Any], path: tuple[str, ...]) -> FoundState:
    """A set of weights under some keys, and what else is in it and beside it."""
    tensors: dict[str, _Listed] = {}
    unlisted: dict[str, str] = {}
    others: list[Any] = []
    for key, value in entries.items():
        if isinstance(value, _Listed | UnlistedTensor) and writable(key) != key:
            raise CheckpointError(
                f"the state dict has the name '{printable(key)}', which is not Unicode; get the file again.",
                rule="F002",
            )
        if isinstance(value, UnlistedTensor):
            unlisted[key] = value.kind
        elif isinstance(value, _Listed):
            tensors[key] = value
        else:
            others.append(key)
    if len(tensors) + len(unlisted) > MOST_TENSORS:
        raise over_limit(f"it holds more than {MOST_TENSORS:,} tensors by name")
    outside = [key for key in beside if key != path[0]] if path else []
    extras = (*first_extras(outside), *first_extras(others, path))
    return FoundState(tensors, path, any(map(_AVERAGE.search, path)), unlisted, extras)


def _no_weights(root: Any, globals: tuple[str, ...]) -> NoWeightsError:
    if isinstance(root, Opaque):
        return NoWeightsError(
            f"it is a pickled object of '{printable(root.name)}' without parameters or buffers that can be told "
            "without running its code; save its state_dict() instead.",
            rule="F004",
            globals=globals,
        )
    if not isinstance(root, dict):
        return NoWeightsError(
            f"it holds no weights: it is a pickled {type(root).__name__}, where a state dict was expected.",
            rule="F001",
            globals=globals,
        )
    keys = printable_list(map(describe_key, root))
    return NoWeightsError(
        f"it holds no weights: its keys are {keys or 'none'}, and a state dict was expected at the top or under "
        f"{printable_list(STATE_KEYS)}.",
        rule="F001",
        globals=globals,
    )

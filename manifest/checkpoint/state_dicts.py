"""Where the weights are inside a checkpoint, and what they are called without their wrappers.

A checkpoint is either a state dict or a dictionary with one inside, beside an optimizer, an epoch and the like. The
keys tried are those that training scripts use; tensors of optimizers and averages are never counted as weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from manifest.checkpoint.escaping import printable, printable_list, writable
from manifest.checkpoint.inert_pickle import OddKey, Opaque
from manifest.checkpoint.torch_objects import PickledTensor, UnlistedTensor
from manifest.errors import CheckpointError

STATE_KEYS = ("state_dict", "model_state_dict", "model", "model_state", "module")
"""Keys under which training scripts put the weights, in the order in which they are tried."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What DataParallel, torch.compile and FSDP put before every name."""

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class FoundState:
    """The weights of an unpickled object.

    Attributes:
        tensors: By stored name, in stored order.
        path: The keys that lead to them.
        extras: What else is beside them: other top-level keys, and entries of the state dict that are no tensors.
    """

    tensors: dict[str, PickledTensor]
    path: tuple[str, ...]
    extras: tuple[str, ...]


def find_state(root: Any) -> FoundState:
    """The state dict of an object.

    Raises:
        CheckpointError: `F001` when it holds no weights, `F004` when they are in a form that cannot be listed.
    """
    path = _path_to_state(root)
    if path is None:
        raise _no_weights(root)
    state = root
    for key in path:
        state = state[key]
    tensors: dict[str, PickledTensor] = {}
    others: list[str] = []
    for key, value in state.items():
        if isinstance(value, UnlistedTensor):
            raise CheckpointError(
                f"tensor '{printable(describe_key(key))}' is {value.kind}, whose values cannot be listed yet; "
                "save it as a plain tensor.",
                rule="F004",
            )
        if isinstance(value, PickledTensor):
            if writable(key) != key:
                raise CheckpointError(
                    f"the state dict has the name '{printable(key)}', which is not Unicode; get the file again.",
                    rule="F002",
                )
            tensors[key] = value
        else:
            others.append(".".join((*path, describe_key(key))))
    beside = [describe_key(key) for key in root if key != path[0]] if path else []
    return FoundState(tensors, path, (*beside, *others))


def strip_prefixes(tensors: Mapping[str, _Value]) -> tuple[str, dict[str, _Value]]:
    """The wrapper prefix that every name has, repeated ones joined, and the tensors by their names without it."""
    prefix = ""
    while tensors:
        found = next(
            (
                candidate
                for candidate in WRAPPER_PREFIXES
                if all(
                    name.startswith(candidate, len(prefix)) and len(name) > len(prefix) + len(candidate)
                    for name in tensors
                )
            ),
            "",
        )
        if not found:
            break
        prefix += found
    return prefix, {name[len(prefix) :]: tensor for name, tensor in tensors.items()}


def describe_key(key: Any) -> str:
    """A key of a dictionary as text; those that are no strings by their `repr`."""
    if isinstance(key, str):
        return writable(key)
    if isinstance(key, OddKey):
        return f"<{key.kind}>"
    if isinstance(key, int) and key.bit_length() > 64:
        return "<int>"  # beyond some thousand digits Python refuses to write it out
    return repr(key)


def _path_to_state(root: Any) -> tuple[str, ...] | None:
    """The keys that lead to the state dict; None when there is none."""
    at_root = _weights_in(root)
    wrapped = _wrapped_path(root)
    if wrapped is not None and at_root:
        # A few tensors beside a wrapped state dict are losses or statistics; a few dictionaries in one are extra state.
        state = root
        for key in wrapped:
            state = state[key]
        return wrapped if _weights_in(state) > at_root else ()
    if wrapped is None and at_root:
        return ()
    return wrapped


def _wrapped_path(root: Any) -> tuple[str, ...] | None:
    if not isinstance(root, dict):
        return None
    for key in STATE_KEYS:
        inner = root.get(key)
        if _weights_in(inner):
            return (key,)
        if isinstance(inner, dict):
            for inner_key in STATE_KEYS:
                if _weights_in(inner.get(inner_key)):
                    return (key, inner_key)
    return None


def _weights_in(value: Any) -> int:
    """How many tensors a dictionary has by name; 0 when any of its tensors has no name."""
    if not isinstance(value, dict):
        return 0
    count = 0
    for key, item in value.items():
        if isinstance(item, PickledTensor | UnlistedTensor):
            if not isinstance(key, str):
                return 0
            count += 1
    return count


def _no_weights(root: Any) -> CheckpointError:
    if isinstance(root, Opaque):
        return CheckpointError(
            f"it is a pickled whole module or other object of '{printable(root.name)}', which only running its code "
            "would open; save its state_dict() instead.",
            rule="F004",
        )
    if isinstance(root, PickledTensor | UnlistedTensor):
        return CheckpointError(
            "it holds one tensor without a name, not a dictionary of weights; save it as {'name': tensor}.", rule="F004"
        )
    if not isinstance(root, dict):
        return CheckpointError(
            f"it holds no weights: it is a pickled {type(root).__name__}, where a state dict was expected.", rule="F001"
        )
    module = next((root[key] for key in STATE_KEYS if isinstance(root.get(key), Opaque)), None)
    if module is not None:
        return CheckpointError(
            f"it holds a pickled whole module of '{printable(module.name)}', which only running its code would open; "
            "save its state_dict() instead.",
            rule="F004",
        )
    keys = printable_list(map(describe_key, root))
    return CheckpointError(
        f"it holds no weights: its keys are {keys or 'none'}, and a state dict was expected at the top or under "
        f"{printable_list(STATE_KEYS)}.",
        rule="F001",
    )

"""Copies of modules over other tensors, also of modules that hold what cannot be copied: a lock, an open file."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

_TENSORS = ("_parameters", "_buffers")
_MODULES = "_modules"


def copy_over(module: nn.Module, tensors: dict[int, Any]) -> nn.Module:
    """A deep copy of a module over other tensors; an attribute that cannot be copied is shared.

    Args:
        module: The module.
        tensors: By the identity of each parameter and buffer: what takes its place.
    """
    try:
        copied: nn.Module = copy.deepcopy(module, dict(tensors))
    except Exception:  # an attribute may refuse in any way, and so may the module's own `__deepcopy__`
        copied = _copied(module, dict(tensors))
    return copied


def _copied(module: nn.Module, memo: dict[int, Any]) -> Any:
    if id(module) in memo:
        return memo[id(module)]
    made = memo[id(module)] = object.__new__(type(module))
    held = dict(vars(module))
    children = {name: child if child is None else _copied(child, memo) for name, child in held[_MODULES].items()}
    own = {name: copy.deepcopy(held[name], memo) for name in _TENSORS}
    others = {name: _or_itself(value, memo) for name, value in held.items() if name not in (_MODULES, *_TENSORS)}
    vars(made).update(others | own | {_MODULES: children})
    return made


def _or_itself(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # whatever it raises, it is of no module's tensors
        return value

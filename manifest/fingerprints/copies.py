"""Copies of modules over other tensors, also of modules that hold what cannot be copied: a lock, an open file."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_TENSORS = ("_parameters", "_buffers")
_MODULES = "_modules"


def copy_over(module: nn.Module, other: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    """A deep copy of a module over other tensors; an attribute that cannot be copied is shared.

    Args:
        module: The module.
        other: Gives what takes the place of a parameter, which stays one, or of a buffer.
    """
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        new = other(tensor)
        memo[id(tensor)] = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    try:
        copied: nn.Module = copy.deepcopy(module, dict(memo))
    except Exception:  # an attribute may refuse in any way, and so may the module's own `__deepcopy__`
        copied = _copied(module, memo)
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

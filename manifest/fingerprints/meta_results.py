"""Operators on the meta device, run once for each shape of their arguments.

On that device an operator only finds out what its result would look like. Many do so in Python, which takes up to a
millisecond, and a model asks the same again in each of its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

_MOST = 20_000
_PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)

_known: dict[Any, tuple[tuple[Any, ...], ...]] = {}


def run_on_meta(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What an operator returns, by heart where it is on the meta device and was seen with such arguments before.

    Only operators whose results share nothing with their arguments are remembered; others, and those with arguments on
    other devices, just run.
    """
    key = _key(operator, args, kwargs)
    if key is None:
        return operator(*args, **kwargs)
    known = _known.get(key)
    if known is None:
        results = operator(*args, **kwargs)
        tensors = results if isinstance(results, tuple) else (results,)
        if all(isinstance(each, torch.Tensor) for each in tensors):
            if len(_known) >= _MOST:
                _known.clear()
            _known[key] = tuple((tuple(each.shape), each.stride(), each.dtype) for each in tensors)
        return results
    made = tuple(torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in known)
    return made if len(operator._schema.returns) > 1 else made[0]


def _key(operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the looks of the results depend on; None where they are not to be remembered."""
    schema = operator._schema
    if any(each.alias_info is not None for each in (*schema.arguments, *schema.returns)):
        return None
    try:
        described = [_described(each) for each in args]
        named = [(name, _described(value)) for name, value in sorted(kwargs.items())]
    except TypeError:
        return None
    key = (operator, tuple(described), tuple(named))
    return key if any(isinstance(each, torch.Tensor) for each in args) else None


def _described(argument: Any) -> Any:
    """An argument without its values where it is a tensor on the meta device.

    Raises:
        TypeError: It is of a kind that is not to be remembered.
    """
    kind = type(argument)
    if kind is torch.Tensor or kind is torch.nn.Parameter:
        if not argument.is_meta or argument.is_complex():
            raise TypeError("a tensor with values")
        return kind is torch.Tensor, tuple(argument.shape), argument.stride(), argument.dtype
    if kind in (list, tuple):
        return tuple(_described(each) for each in argument)
    if kind not in _PLAIN:
        raise TypeError(f"a {kind.__name__}")
    return kind, argument

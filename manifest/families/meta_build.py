"""Building a module without its weights: parameters on the meta device, buffers for real, no random numbers.

A meta device alone leaves non-persistent buffers (attention masks, rotary tables, window indices) without values, and
these are in no checkpoint. So construction runs on the CPU, every parameter is replaced by an empty one on the meta
device as it is registered, and random fills do nothing: a ViT-bigG is built in a moment and a few megabytes.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from manifest.neutral_process import neutral_process

_RANDOM_FACTORIES = {torch.randn, torch.rand}
_KNOWN_FACTORIES = {torch.zeros, torch.ones, torch.full, torch.arange, torch.linspace, torch.eye, torch.tensor}
_RANDOM_FILLS = {
    torch.Tensor.normal_,
    torch.Tensor.uniform_,
    torch.Tensor.exponential_,
    torch.Tensor.bernoulli_,
    torch.Tensor.random_,
    torch.Tensor.erfinv_,
    nn.init.trunc_normal_,
    nn.init.orthogonal_,
}
_COPIES = {torch.Tensor.__deepcopy__}


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside, by this thread, have their parameters on the meta device and their buffers for real.

    Nothing that the caller has set makes a difference to them.
    """
    owner = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        del module, name
        if parameter is None or parameter.is_meta or threading.get_ident() != owner:
            return parameter
        return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)

    register: Any = register_module_parameter_registration_hook  # its annotation forgets that it may return one
    with neutral_process():
        hook = register(to_meta)
        try:
            with _WithoutRandomness():
                yield
        finally:
            hook.remove()


class _WithoutRandomness(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = dict(kwargs or {})
        if func in _RANDOM_FACTORIES:
            kwargs.pop("generator", None)
            # What is random is a weight to be: it needs a shape and no memory.
            return torch.empty(*args, **{**kwargs, "device": "meta"})
        if func in _KNOWN_FACTORIES and str(kwargs.get("device")) == "meta":
            # Some constructors make their tables where their first parameter is; tables are buffers, and kept for real.
            kwargs["device"] = "cpu"
        if func in _RANDOM_FILLS:
            return args[0] if args else kwargs["tensor"]
        if func in _COPIES:
            # Its other argument is the memo of everything copied so far, which is no operand.
            return func(*args, **kwargs)
        if _mixed(args, kwargs):
            # Some constructors run a forward pass to learn a shape; buffers meet parameters there.
            args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        return func(*args, **kwargs)


def _mixed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has tensors both on the meta device and off it."""
    return len({tensor.is_meta for tensor in _tensors((args, kwargs)) if tensor.ndim}) == 2


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments; torch's own walk is slow."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))

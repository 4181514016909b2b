"""Models whose parameters are spread over processes, as `fully_shard` (FSDP2) and DeepSpeed's ZeRO-3 leave them.

Sharding changes the class of modules and makes every parameter a `DTensor`; ZeRO-3 leaves parameters of no elements,
which know their shape, and notes of its own on every module. What the model is made of stays, and is shown here by a
twin without values that every family reads as it does any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from manifest.families.wrappers import unwrap, wrappings

_OF_RUNNING = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
)
"""Hooks by which a sharded module gathers and frees its parameters; the twin has none to gather."""
_OF_ZERO = frozenset(
    {
        *("_external_params", "_original_parameters", "all_parameters", "applied_pre_backward_ref_cnt", "ds_id"),
        *("ds_external_parameters", "ds_grads_remaining", "ds_model_name", "ds_recompute_parameters"),
        *("post_bwd_fn", "pre_bwd_fn"),
    }
)
"""What DeepSpeed notes on a module whose parameters it partitions (`deepspeed/runtime/zero/parameter_offload.py`)."""


WHOLE_OF_ZERO = (
    "write the whole with `engine.save_16bit_model(FOLDER)` under `manifest run`, or with `zero_to_fp32.py`, and "
    "describe that file with `manifest create`"
)
"""What to do about weights that ZeRO-3 has partitioned."""


def is_sharded(module: nn.Module) -> bool:
    """Whether no process holds the whole model, so that saving it needs all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return False
    from torch.distributed.fsdp import FSDPModule

    tensors = (*module.parameters(), *module.buffers())
    return any(isinstance(child, FSDPModule) for child in module.modules()) or any(map(_is_spread, tensors))


def is_partitioned(module: nn.Module) -> bool:
    """Whether ZeRO-3 has spread the parameters, so that a state dict of the module has no values."""
    return any(hasattr(parameter, "ds_tensor") for parameter in module.parameters())


def whole_shape(tensor: torch.Tensor) -> torch.Size:
    """The shape of a tensor, of all of it where ZeRO-3 has left nothing in its place."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def reshard(module: nn.Module) -> None:
    """Leave each process with its part: after a forward pass, the root may still have whole parameters to compute with.

    Nothing is communicated, and still all processes must call it, or the next forward pass would have some of them
    gather parameters that others have.
    """
    from torch.distributed.fsdp import FSDPModule

    for child in module.modules():
        if isinstance(child, FSDPModule):
            child.reshard()


def unsharded(module: nn.Module) -> nn.Module:
    """The model as it was before it was sharded, with the sizes of whole parameters and without their values.

    It must have been resharded. Buffers are the very ones of the module. Wrappers of its parts, by `torch.compile` or
    for activation checkpointing, are left out, as state dicts of `torch.distributed.checkpoint` leave out their names.
    What a module notes on itself, such as how it was made, is kept.
    """
    return _Twins().of(module)


def whole_state(module: nn.Module) -> dict[str, Any]:
    """The state dict of a model, put together on the CPU of the first process, and empty on the others.

    All processes must call it.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def is_copy(model: nn.Module) -> bool:
    """Whether a model is `DistributedDataParallel`'s copy of one that the first process of its group has too."""
    groups = [
        wrapping.process_group
        for wrapping in wrappings(model)
        if isinstance(wrapping, nn.parallel.DistributedDataParallel)
    ]
    return any(dist.get_rank(group) > 0 for group in groups)


class _Twins:
    """Modules and tensors that were met, so that what is shared stays shared."""

    def __init__(self) -> None:
        self._modules: dict[int, nn.Module] = {}
        self._tensors: dict[int, torch.Tensor] = {}

    def of(self, module: nn.Module) -> nn.Module:
        """The twin of a module, without its wrappers."""
        inner = unwrap(module)
        if id(inner) not in self._modules:
            self._modules[id(inner)] = twin = object.__new__(_class_of(inner))
            notes = {name: value for name, value in vars(inner).items() if name not in _OF_ZERO}
            vars(twin).update(notes, **{name: {} for name in _OF_RUNNING})
            vars(twin).update(
                _modules=_each(inner._modules, self.of),
                _parameters=_each(inner._parameters, self._parameter),
                _buffers=_each(inner._buffers, _buffer),
            )
        return self._modules[id(inner)]

    def _parameter(self, parameter: nn.Parameter) -> torch.Tensor:
        if id(parameter) not in self._tensors:
            ghost = torch.empty(whole_shape(parameter), dtype=parameter.dtype, device="meta")
            self._tensors[id(parameter)] = nn.Parameter(ghost, parameter.requires_grad)
        return self._tensors[id(parameter)]


def _each(entries: Mapping[str, Any], twin_of: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: None if entry is None else twin_of(entry) for name, entry in entries.items()}


def _buffer(buffer: torch.Tensor) -> torch.Tensor:
    """A buffer that every process has whole; one without values where it is spread."""
    return torch.empty(buffer.shape, dtype=buffer.dtype, device="meta") if _is_spread(buffer) else buffer


def _class_of(module: nn.Module) -> type[nn.Module]:
    """The class of a module before it was sharded."""
    from torch.distributed.fsdp import FSDPModule

    kinds = (kind for kind in type(module).__mro__ if issubclass(kind, nn.Module))
    return next(kind for kind in kinds if not issubclass(kind, FSDPModule))


def _is_spread(tensor: torch.Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)

"""Modules that only wrap others: of data parallelism, of compilation, of Lightning."""

from __future__ import annotations

from torch import nn


def unwrap(module: nn.Module) -> nn.Module:
    """The model without the wrappers of `DistributedDataParallel`, `DataParallel`, `torch.compile`, checkpointing."""
    return wrappings(module)[-1]


def wrappings(module: nn.Module) -> list[nn.Module]:
    """The same model with ever fewer wrappers, from what was given to the model itself."""
    found = [module]
    while (inner := _inside(found[-1])) is not None:
        found.append(inner)
    return found


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; None for what is no wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner: object = module.module
    else:
        inner = getattr(module, "_orig_mod", getattr(module, "_checkpoint_wrapped_module", None))
    return inner if isinstance(inner, nn.Module) else None

"""Whose weights a state dict holds: the module in memory that has them, has their values, or has their names.

Nothing is hooked for that. A module whose making was remembered is looked at first, and all that the garbage collector
knows when none of these fits: a copy that averages weights, a model that a library made out of sight.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from manifest.checkpoint import Checkpoint, CompositeTensor, View
from manifest.checkpoint.views import renamed
from manifest.distributed.sharding import whole_shape
from manifest.errors import ArchitectureError
from manifest.families import creation_of, family_of, tracked
from manifest.families.wrappers import unwrap
from manifest.weights.assign import mapped_tensor

Tensors = Mapping[str, torch.Tensor]

_LIGHTNING = ("lightning.", "pytorch_lightning.")


@dataclass(frozen=True)
class Owner:
    """A module that a state dict is of.

    Attributes:
        module: Without wrappers.
        live: Whether the tensors are its own, or have the values of these; otherwise it only has their names and
            shapes, as a model has those of its average.
    """

    module: nn.Module
    live: bool


def owner_of(state: Tensors, prefix: str = "") -> Owner | None:
    """The module that some tensors are the weights of, None when there is none.

    Args:
        state: All tensors of one model by name, wrapper prefix left out.
        prefix: What was left out: a Lightning module's `model.` leads to the module inside it.
    """
    first = next(iter(state)).partition(".")[0]
    alike: dict[int, nn.Module] = {}
    for module in _modules(prefix):
        if id(module) in alike or not _may_have(module, first):
            continue
        own = module.state_dict(keep_vars=True)
        if not _same_names(own, state):
            continue
        if all(_is_same(own[name], tensor) for name, tensor in state.items()):
            return Owner(module, live=True)
        alike[id(module)] = module
    known = sorted(alike.values(), key=lambda module: creation_of(module) is None)
    for module in known:
        own = module.state_dict(keep_vars=True)
        if all(_has_values(own[name], tensor) for name, tensor in state.items()):
            return Owner(module, live=True)
    return Owner(known[0], live=False) if known else None


def model_in(module: nn.Module) -> tuple[str, nn.Module]:
    """The model that some weights are to be described as: the module itself, or the one that it is there to train.

    A LightningModule is no model of any library, and holds one, which may have any name and others beside it, such as a
    loss with weights of its own. The largest is meant. One that is known as a class of the user's own is left for a
    library's model only.

    Returns:
        The path from the module to it, empty or with a dot at its end, and the model.
    """
    itself = _family_name(module)
    if itself is not None and not any(kind.__module__.startswith(_LIGHTNING) for kind in type(module).__mro__):
        return "", module
    passed_over = (None,) if itself is None else (None, itself)
    found: dict[str, nn.Module] = {}
    for path, child in module.named_modules():
        if path and not path.startswith(tuple(found)) and _family_name(child) not in passed_over:
            found[f"{path}."] = child
    inner = max(found, key=lambda path: len(found[path].state_dict()), default="")
    return inner, found.get(inner, module)


def stored_names(saved: Any) -> Mapping[str, str]:
    """Of a module that was saved as such: the names that its library gives to tensors in the file → the module's."""
    if not isinstance(saved, nn.Module) or _family_name(unwrap(saved)) is None:
        return {}
    return family_of(unwrap(saved)).stored_names(unwrap(saved))


def _family_name(module: nn.Module) -> str | None:
    """The family of a module, None where it has none."""
    try:
        return family_of(module).name
    except ArchitectureError:
        return None


def find_by_names(state: Tensors) -> nn.Module | None:
    """A module whose names and shapes some tensors have, whatever their values; also of a model in shards."""
    first = next(iter(state)).partition(".")[0]
    for module in _modules(""):
        if _may_have(module, first) and _same_names(module.state_dict(keep_vars=True), state):
            return module
    return None


def tensors_in(saved: Any, path: tuple[str, ...], prefix: str, names: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of an object that was saved, by the names that a reader of its file gives them.

    Args:
        saved: The object.
        path: Keys that lead to the state dict in it.
        prefix: What the reader left out of the names.
        names: What the reader found there.

    Returns:
        Those of the names that are tensors there; fewer when the object is one that the reader sees otherwise.
    """
    for key in path:
        saved = saved.get(key) if isinstance(saved, Mapping) else getattr(saved, key, None)
    if isinstance(saved, nn.Module):
        saved = saved.state_dict(keep_vars=True)
    if not isinstance(saved, Mapping):
        return {}
    found = {name: saved.get(prefix + name) for name in names}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}


def _modules(prefix: str) -> Iterator[nn.Module]:
    """Modules that may be meant, the likely ones first, some of them twice."""
    yield from (unwrap(module) for module in tracked())
    # The type itself: asking a lazy proxy for its class may run whatever it stands for. One that is being made, or of
    # which a copy failed, has no modules yet.
    alive = [each for each in gc.get_objects() if issubclass(type(each), nn.Module) and "_modules" in vars(each)]
    for module in alive:
        yield unwrap(module)
        inner = _at(module, prefix.rstrip("."))
        if inner is not None:
            yield unwrap(inner)


def _at(module: nn.Module, path: str) -> nn.Module | None:
    for part in path.split(".") if path else ():
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    return module if path else None


def _may_have(module: nn.Module, first: str) -> bool:
    """Whether names of a module's may begin with some part."""
    return any(first in parts for parts in (module._modules, module._parameters, module._buffers))


def _same_names(own: Tensors, state: Tensors) -> bool:
    """Whether the names are a module's, but for other names of the same weights, which some writers leave out.

    One without weights, as rebuilt here, has none.
    """
    if not state.keys() <= own.keys() or any(tensor.is_meta for tensor in own.values()):
        return False
    there = {id(own[name]) for name in state}
    return all(id(tensor) in there for tensor in own.values()) and all(
        whole_shape(own[name]) == tensor.shape for name, tensor in state.items()
    )


def _is_same(own: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same memory."""
    return (
        own.shape == other.shape
        and own.data_ptr() == other.data_ptr()
        and own.device == other.device
        and own.stride() == other.stride()
    )


def _has_values(own: torch.Tensor, other: torch.Tensor) -> bool:
    return own.dtype == other.dtype and torch.equal(own.detach().cpu(), other.detach().cpu())


def owners_in(stored: Checkpoint, saved: Any) -> list[tuple[View, Owner]]:
    """The sets of weights in a file that are a model's, each with the model."""
    names = stored_names(saved)
    found = []
    for each in stored.candidates:
        candidate = replace(each, tensors=renamed(each.tensors, names))
        tensors: Mapping[str, torch.Tensor] = tensors_in(saved, candidate.path, candidate.prefix, candidate.tensors)
        if len(tensors) < len(candidate.tensors):  # saved in a form that only the file tells
            plain = {name: each for name, each in candidate.tensors.items() if not isinstance(each, CompositeTensor)}
            tensors = {name: mapped_tensor(stored, each) for name, each in plain.items()}
        if len(tensors) == len(candidate.tensors) > 0:
            owner = owner_of(tensors, candidate.prefix)
            if owner is not None:
                inner, model = model_in(owner.module)
                within = candidate.prefix + inner if inner else ""
                found.append((View(candidate.path, within), Owner(model, owner.live)))
    return found


def named_like(saved: Mapping[str, Any]) -> tuple[str, nn.Module | None]:
    """The module whose names and shapes a state dict has, which is at the top or under a key, and that key."""
    for key, state in {"": saved, **saved}.items():
        if isinstance(state, Mapping) and state and all(isinstance(each, torch.Tensor) for each in state.values()):
            module = find_by_names(state)
            if module is not None:
                return key, module
    return "", None

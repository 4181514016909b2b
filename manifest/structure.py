"""Fingerprints of a module without regard to its weights: what it is made of, and what it runs.

The structure is a line a module: path, class, hyper-parameters; it is readable, and two of them can be compared line by
line. The operators are the ATen calls of one forward pass on the meta device: no weights, no arithmetic.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifest.digests import text_digest
from manifest.document import Operators

_NOT_STRUCTURE = frozenset(
    {
        # How a module is used, not what it is.
        "training",
        "grad_checkpointing",
        # Kept as preprocessing, or registry entries that say where weights once came from.
        "image_mean",
        "image_std",
        "preprocess_cfg",
        "pretrained_cfg",
        "default_cfg",
        # Depends on the machine.
        "fused_attn",
        "use_fsdpa",
    }
)


def structure(module: nn.Module) -> list[str]:
    """The module tree as text: `path: Class(hyper-parameter=value, …)`, one line a module, in order of definition.

    Hyper-parameters are the plain public attributes of each module (numbers, strings, flags, tuples and dicts of them,
    and names of functions and classes), so custom modules need no `extra_repr`.
    """
    return [
        f"{path or '.'}: {type(child).__name__}({_hyperparameters(child)})" for path, child in module.named_modules()
    ]


def structure_digest(lines: Sequence[str]) -> str:
    """Digest of the lines of `structure`."""
    return text_digest(lines)


def first_difference(expected: Sequence[str], found: Sequence[str]) -> str | None:
    """The first line in which two structures differ, as `path: this → that`; None when they are equal."""
    for one, other in zip(expected, found, strict=False):
        if one != other:
            path, _, description = one.partition(": ")
            other_path, _, other_description = other.partition(": ")
            return f"{path}: {description} → {other_description}" if path == other_path else f"{one} → {other}"
    if len(expected) != len(found):
        longer, verb = (expected, "missing") if len(expected) > len(found) else (found, "added")
        return f"{longer[min(len(expected), len(found))]} ({verb})"
    return None


@dataclass(frozen=True)
class Trace:
    """The operators of one forward pass, in order."""

    operators: tuple[str, ...]

    def record(self) -> Operators:
        counts = dict(sorted(Counter(self.operators).items()))
        return Operators(digest=text_digest(self.operators), counts=counts)


def trace(module: nn.Module, forward: Callable[[nn.Module], object]) -> Trace:
    """Run `forward` on a copy of the module on the meta device, in eval mode, and list the operators that ran.

    Args:
        module: A module whose parameters may be on any device; it is not changed.
        forward: Called with the copy; makes its own inputs, on the meta device.
    """
    recorder = _Recorder()
    ghost = _on_meta(module).eval()
    with torch.no_grad(), recorder:
        forward(ghost)
    return Trace(tuple(recorder.operators))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        self.operators.append(str(func))
        return func(*args, **(kwargs or {}))


def _on_meta(module: nn.Module) -> nn.Module:
    """A deep copy whose tensors are all on the meta device, made without copying their values."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        ghost = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(ghost, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else ghost
    return copy.deepcopy(module, memo)


def _hyperparameters(module: nn.Module) -> str:
    attributes = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in _NOT_STRUCTURE and not isinstance(value, torch.Tensor)
    }
    shown = {name: _plain(value) for name, value in attributes.items()}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()) if value is not None)


def _plain(value: object) -> str | None:
    """Text for a plain value, the same before and after a JSON round trip; None for what is no hyper-parameter."""
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, torch.dtype | torch.Size):
        return str(tuple(value)) if isinstance(value, torch.Size) else str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return None if None in items else f"({', '.join(map(str, items))})"
    if isinstance(value, dict):
        pairs = {str(key): _plain(item) for key, item in value.items()}
        return f"{{{', '.join(f'{key}: {item}' for key, item in sorted(pairs.items()) if item is not None)}}}"
    if isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module)):
        function = getattr(value, "func", value)  # a functools.partial is named for what it calls
        return getattr(function, "__name__", type(function).__name__)
    return None

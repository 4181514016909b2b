"""Fingerprints of a module without regard to its weights: what it is made of, and what it runs.

The structure is a line a module: path, class, hyper-parameters; it is readable, and two of them can be compared module
by module. The operators are the ATen calls of one forward pass on the meta device: no weights, no arithmetic. Views are
left out and in-place forms counted as plain ones, since versions of torch differ in these while computing the same.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifest.digests import text_digest
from manifest.fingerprints.copies import copy_over
from manifest.fingerprints.meta_results import run_on_meta
from manifest.fingerprints.module_tree import Part
from manifest.neutral_process import neutral_process
from manifest.schema.document import Operators

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
        "pretrained_model_args",
        # Depends on the machine.
        "fused_attn",
        "use_fsdpa",
        "name_or_path",
    }
)
_ATTENTION = "_attn_implementation"
_NOT_STRUCTURE_OF = {
    # Learned from the first images that come by.
    "MultiScaleRoIAlign": frozenset({"scales", "map_levels"}),
}
_STRUCTURE_OF = {
    # A detector prepares its images itself.
    "GeneralizedRCNNTransform": frozenset({"image_mean", "image_std"}),
}
_HYPERPARAMETERS_BY_PRIVATE_NAMES = frozenset({"_loss_type"})
"""torchvision's detection heads keep the kind of their box loss so."""
_LIBRARIES_OF_MODELS = frozenset({"open_clip", "timm", "torchvision"})
_DEEPEST_OBJECT = 4
_IN_PLACE = re.compile(r"(?<=[a-z0-9])_(\.|$)")
_ONLY_COPIES = frozenset(
    {"aten.empty.memory_format"}
    | {
        f"aten.{name}.default"
        for name in (
            *("_unsafe_view", "_reshape_alias", "clone", "contiguous", "detach", "lift_fresh"),
            *("empty_like", "empty_strided", "new_empty", "new_empty_strided"),
        )
    }
)


def structure(module: nn.Module) -> list[Part]:
    """The module tree, one part a module, in order of definition.

    Hyper-parameters are the plain public attributes of each module (numbers, strings, flags, tuples, lists and dicts of
    them, names of functions and classes, and the libraries' own objects with their attributes, such as a detector's
    matcher of boxes), so custom modules need no `extra_repr`.
    """
    return [
        Part(path or ".", type(child).__name__, _hyperparameters(child))
        for path, child in module.named_modules(remove_duplicate=False)
    ]


def hyperparameters(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module itself that may say what it is: what `structure` writes down, and what is no text."""
    kind = type(module).__name__
    hidden = (_NOT_STRUCTURE | _NOT_STRUCTURE_OF.get(kind, frozenset())) - _STRUCTURE_OF.get(kind, frozenset())
    return {
        name: value
        for name, value in vars(module).items()
        if not isinstance(value, torch.Tensor)
        and (name in _HYPERPARAMETERS_BY_PRIVATE_NAMES or not (name.startswith("_") or name in hidden))
    }


def ties(module: nn.Module) -> dict[str, str]:
    """Parameters that are the very object of an earlier one: name → the first name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        original = first.setdefault(id(parameter), name)
        if original != name:
            tied[name] = original
    return tied


@dataclass(frozen=True)
class Trace:
    """The operators of one forward pass, in order, and which of them draw random numbers."""

    operators: tuple[str, ...]
    random: frozenset[str] = frozenset()

    def record(self) -> Operators:
        counts = dict(sorted(Counter(self.operators).items()))
        return Operators(digest=text_digest(self.operators), counts=counts, random=sorted(self.random))


def trace_operators(module: nn.Module, forward: Callable[[nn.Module], object]) -> Trace:
    """Run `forward` on a copy of the module on the meta device, in eval mode, and list the operators that ran.

    Args:
        module: A module whose parameters may be on any device; it is not changed.
        forward: Called with the copy; makes its own inputs, on the meta device.
    """
    recorder = Recorder()
    with neutral_process():
        ghost = on_meta(module).eval()
        with torch.no_grad(), recorder:
            forward(ghost)
    return Trace(tuple(recorder.operators), frozenset(recorder.random))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that run inside it, those that only copy or view left out."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[str] = []
        self.random: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        name = _IN_PLACE.sub(r"\1", str(func))
        if not (func.is_view or name in _ONLY_COPIES):
            self.operators.append(name)
            self.ran(name)
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.random.add(name)
        return run_on_meta(func, args, kwargs or {})

    def ran(self, name: str) -> None:
        """Called for each operator, for whoever wants to know more of it."""


def on_meta(module: nn.Module) -> nn.Module:
    """A deep copy whose tensors are all on the meta device, made without copying their values."""
    return copy_over(module, lambda tensor: torch.empty_like(tensor, device="meta"))


def _hyperparameters(module: nn.Module) -> dict[str, str]:
    shown = {name: _plain(value) for name, value in hyperparameters(module).items()}
    return {name: value for name, value in sorted(shown.items()) if value is not None}


def _plain(value: object, depth: int = 0) -> str | None:
    """Text for a plain value, the same before and after a JSON round trip; None for what is no hyper-parameter."""
    if depth > _DEEPEST_OBJECT:
        return None
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, torch.dtype | torch.Size):
        return str(tuple(value)) if isinstance(value, torch.Size) else str(value)
    if not isinstance(value, type) and hasattr(value, _ATTENTION):
        # A config of transformers: it is recorded whole elsewhere, and shows in what the modules are, all but this.
        return f"{type(value).__name__}(attention={getattr(value, _ATTENTION)})"
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)}, depth)
    if isinstance(value, list | tuple):
        items = [_plain(item, depth) for item in value]
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        return None if None in items else f"{opening}{', '.join(map(str, items))}{closing}"
    if isinstance(value, dict):
        pairs = {str(key): _plain(item, depth) for key, item in value.items()}
        return f"{{{', '.join(f'{key}: {item}' for key, item in sorted(pairs.items()) if item is not None)}}}"
    if _is_of_a_library(value):
        held = {name: _plain(item, depth + 1) for name, item in sorted(vars(value).items()) if name[0] != "_"}
        return f"{type(value).__name__}({', '.join(f'{name}={item}' for name, item in held.items() if item)})"
    if isinstance(value, type) or (callable(value) and not isinstance(value, nn.Module)):
        if isinstance(value, functools.partial):
            bound = "".join(f", {name}={_plain(item)}" for name, item in sorted(value.keywords.items()))
            return f"partial({_plain(value.func)}{bound})"
        return getattr(value, "__name__", type(value).__name__)
    return None


def _is_of_a_library(value: object) -> bool:
    """Whether a value is an object, neither module nor class nor function, that a model library defines."""
    home = type(value).__module__.partition(".")[0]
    return home in _LIBRARIES_OF_MODELS and not isinstance(value, nn.Module | type) and hasattr(value, "__dict__")

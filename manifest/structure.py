"""Fingerprints of a module without regard to its weights: what it is made of, and what it runs.

The structure is a line a module: path, class, hyper-parameters; it is readable, and two of them can be compared module
by module. The operators are the ATen calls of one forward pass on the meta device: no weights, no arithmetic. Views are
left out and in-place forms counted as plain ones, since versions of torch differ in these while computing the same.
"""

from __future__ import annotations

import copy
import functools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifest.digests import text_digest
from manifest.document import ModuleRecord, Operators
from manifest.dotted_names import fold, unfold_name, without_numbers
from manifest.errors import ArchitectureError

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


@dataclass(frozen=True)
class Part:
    """One module of a tree.

    Attributes:
        path: Attributes that lead to it, joined with dots; `.` for the tree itself.
        class_name: Name of its class, without the class's module, which moves between versions of a library.
        settings: Its hyper-parameters as text.
    """

    path: str
    class_name: str
    settings: Mapping[str, str]

    @property
    def description(self) -> str:
        """`Class(name=value, …)`."""
        return f"{self.class_name}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def __str__(self) -> str:
        return f"{self.path}: {self.description}"


@dataclass(frozen=True)
class Change:
    """One module in which two trees differ; None where a tree has no such module."""

    before: Part | None
    after: Part | None

    @property
    def path(self) -> str:
        return (self.before or self.after).path  # type: ignore[union-attr]

    @property
    def words(self) -> str:
        """What differs: whole descriptions where the class does, else the hyper-parameters that do."""
        if self.before is None or self.after is None:
            part, verb = (self.before, "missing") if self.after is None else (self.after, "added")
            return f"{part.description} ({verb})"  # type: ignore[union-attr]
        if self.before.class_name != self.after.class_name:
            return f"{self.before.description} → {self.after.description}"
        then, now = self.before.settings, self.after.settings
        return ", ".join(
            f"{name} {then.get(name, 'unset')} → {now.get(name, 'unset')}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        )

    @property
    def is_of_vocabulary(self) -> bool:
        """Whether only the sets of hyper-parameters differ, as they do when a library learns a new one."""
        if self.before is None or self.after is None or self.before.class_name != self.after.class_name:
            return False
        common = self.before.settings.keys() & self.after.settings.keys()
        return all(self.before.settings[name] == self.after.settings[name] for name in common)

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


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
_MOST_MODULES = 200_000


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


def structure_digest(parts: Sequence[Part]) -> str:
    """Digest of a tree's lines."""
    return text_digest(map(str, parts))


def changes(expected: Sequence[Part], found: Sequence[Part]) -> list[Change]:
    """The modules in which two trees differ, in the order of the first, then of the second."""
    then, now = ({part.path: part for part in parts} for parts in (expected, found))
    return [Change(then.get(path), now.get(path)) for path in {**then, **now} if _differ(then.get(path), now.get(path))]


def grouped(differences: Sequence[Change], limit: int = 3) -> str:
    """Changes for a message, like ones together: `…resblocks.{0..11}.mlp.gelu: GELU() → QuickGELU()`."""
    alike: dict[str, list[str]] = {}
    for change in differences:
        alike.setdefault(change.words, []).append(change.path)
    lines = [f"{path}: {words}" for words, paths in alike.items() for path in fold(paths)]
    more = f" and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more


def outline(parts: Sequence[Part]) -> list[ModuleRecord]:
    """A tree in few words: modules that differ in the numbers of their paths only share a record."""
    alike: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        alike.setdefault((without_numbers(part.path), part.description), []).append(part)
    return [
        ModuleRecord.model_validate({"path": path, "class": same[0].class_name, "settings": same[0].settings})
        for same in alike.values()
        for path in fold([part.path for part in same])
    ]


def unfold(records: Iterable[ModuleRecord]) -> list[Part]:
    """The parts of an outline.

    Raises:
        ArchitectureError: It stands for more modules than any model has.
    """
    parts: list[Part] = []
    for record in records:
        paths = unfold_name(record.path, most=_MOST_MODULES - len(parts))
        if paths is None:
            raise ArchitectureError(
                f"The manifest lists more than {_MOST_MODULES:,} modules; get it from a source you trust."
            )
        parts += [Part(path, record.class_name, record.settings) for path in paths]
    return parts


def _differ(one: Part | None, other: Part | None) -> bool:
    return one is None or other is None or one.description != other.description


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
    return Trace(tuple(recorder.operators), frozenset(recorder.random))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
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
            if torch.Tag.nondeterministic_seeded in func.tags:
                self.random.add(name)
        return func(*args, **(kwargs or {}))


def _on_meta(module: nn.Module) -> nn.Module:
    """A deep copy whose tensors are all on the meta device, made without copying their values."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        ghost = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(ghost, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else ghost
    return copy.deepcopy(module, memo)


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

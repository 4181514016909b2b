"""Another activation, in all of a model or in one of its towers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from manifest.families.protocol import Variant
from manifest.probes.inputs import Inputs


class QuickGELU(nn.Module):
    """`x · sigmoid(1.702 x)`, as OpenAI's CLIP computes it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "GELU": (nn.GELU, "torch.nn.GELU()"),
    "GELU tanh": (partial(nn.GELU, approximate="tanh"), "torch.nn.GELU(approximate='tanh')"),
    "QuickGELU": (QuickGELU, "open_clip.transformer.QuickGELU()"),
    "ReLU": (nn.ReLU, "torch.nn.ReLU()"),
    "SiLU": (nn.SiLU, "torch.nn.SiLU()"),
}
_ACTIVATION_CLASSES = {
    "GELU", "QuickGELU", "ReLU", "SiLU", "GELUActivation", "QuickGELUActivation", "PytorchGELUTanh", "GELUTanh",
    "GELUPytorchTanh", "SiLUActivation", "Swish", "ReLU6", "Hardswish",
}  # fmt: skip


def activations(module: nn.Module, inputs: Inputs) -> Iterator[Variant]:
    """Every activation module replaced, in all of the model or in one of its towers."""
    found = {path: child for path, child in module.named_modules() if is_activation(child)}
    towers: dict[str, list[str]] = {"": list(found)}
    for path in found:
        towers.setdefault(path.partition(".")[0], []).append(path)
    if len(towers) == 2:
        del towers[next(name for name in towers if name)]
    for tower, paths in towers.items():
        kinds = {activation_name(found[path]) for path in paths}
        for name, (make, code) in _ACTIVATIONS.items():
            if kinds and kinds != {name}:
                here = " and ".join(sorted(kinds))
                where = f" in {tower}" if tower else ""
                yield Variant(
                    "activation",
                    here=f"{here}{where}",
                    there=f"{name}{where}",
                    cure=_replacing(tower, kinds, code),
                    back=_replacing(tower, {name}, _ACTIVATIONS.get(here, (None, here))[1]),
                    alter=partial(_replace, paths=tuple(paths), make=make),
                    undo=partial(restored, recorded=module),
                    concerns=_side(tower, inputs),
                )


def _side(tower: str, inputs: Inputs) -> str | None:
    """Which kind of inputs a tower of a model with two of them takes."""
    if not tower or not {"images", "tokens"} <= inputs.tensors.keys():
        return None
    return "images" if tower.startswith("vis") else "tokens"


def is_activation(module: nn.Module) -> bool:
    """Whether a module is one of the activations that are mistaken for one another."""
    return type(module).__name__ in _ACTIVATION_CLASSES


def activation_name(module: nn.Module) -> str:
    """The activation of a module, by one name whichever library it is of."""
    name = type(module).__name__
    tanh = getattr(module, "approximate", None) == "tanh" or "Tanh" in name
    return "GELU tanh" if tanh else name.removesuffix("Activation")


def restored(module: nn.Module, recorded: nn.Module) -> None:
    """Put a model's activations as they are in the recorded one, wherever the two have one of the same path."""
    there = dict(module.named_modules())
    for path, child in recorded.named_modules():
        if is_activation(child) and path in there:
            _replace(module, (path,), partial(copy.deepcopy, child))


def _replace(module: nn.Module, paths: tuple[str, ...], make: Callable[[], nn.Module]) -> None:
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, make())


def _replacing(tower: str, kinds: set[str], code: str) -> str:
    inside = f"model.{tower}" if tower else "model"
    return f"in {inside}, put {code} in place of every {' and '.join(sorted(kinds))}"

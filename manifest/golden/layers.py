"""Where two runs of a model part: a coarse sketch of what each layer gives, in the order in which layers finish.

A layer here is a block that a model repeats (a transformer's residual block, a stage's convolution block), and every
module with parameters outside of these. Its sketch is 32 projections onto ±1 signs that are products of a sign for the
row and one for the column: as cheap as a small matrix product, unbiased for squared distances, and a little noisier
than independent signs would be.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from blake3 import blake3
from torch import nn

from manifest.schema.document import Layer

PROJECTIONS = 32
MOST_LAYERS = 256
_COLUMNS = 1024
_DIGITS = 6


def layer_paths(module: nn.Module) -> list[str]:
    """Paths of a model's layers, in order of definition.

    A member of a `ModuleList` or `Sequential` that is made of several modules is a block, unless it holds such members
    itself; what has parameters outside of blocks is a layer by itself.
    """
    members = {
        f"{path}.{name}".lstrip(".")
        for path, container in module.named_modules()
        if isinstance(container, nn.ModuleList | nn.Sequential)
        for name, member in container.named_children()
        if next(member.children(), None) is not None and next(member.parameters(), None) is not None
    }
    blocks = {path for path in members if not any(other.startswith(f"{path}.") for other in members)}
    paths = [
        path
        for path, child in module.named_modules()
        if path in blocks
        or (
            path
            and next(child.parameters(recurse=False), None) is not None
            and next(child.children(), None) is None
            and not any(path.startswith(f"{block}.") for block in blocks)
        )
    ]
    return _thinned(paths)


def _thinned(paths: Sequence[str]) -> list[str]:
    """No more than a record has room for, evenly spread."""
    if len(paths) <= MOST_LAYERS:
        return list(paths)
    step = len(paths) / MOST_LAYERS
    return [paths[int(index * step)] for index in range(MOST_LAYERS)]


_Seen = TypeVar("_Seen")


def watched(module: nn.Module) -> contextlib.AbstractContextManager[dict[str, Layer]]:
    """Inside, what each layer gives is sketched the first time that it runs; the dict is in the order of finishing."""
    return _observed(module, sketched)


def watched_for_nan(module: nn.Module) -> contextlib.AbstractContextManager[dict[str, bool]]:
    """Inside, of each layer whether what it gives the first time is finite, in the order of finishing."""
    return _observed(module, lambda _, tensor: bool(torch.isfinite(tensor).all()))


@contextlib.contextmanager
def _observed(module: nn.Module, look: Callable[[str, torch.Tensor], _Seen]) -> Iterator[dict[str, _Seen]]:
    found: dict[str, _Seen] = {}

    def hook_of(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if path not in found and (tensor := first_tensor(output)) is not None:
                found[path] = look(path, tensor)

        return hook

    modules = dict(module.named_modules())
    hooks = [modules[path].register_forward_hook(hook_of(path)) for path in layer_paths(module)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def first_tensor(output: Any) -> torch.Tensor | None:
    """The first floating-point tensor in what a module returned."""
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    parts: list[Any] = []
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, list | tuple):
        parts = list(output)
    elif is_dataclass(output) and not isinstance(output, type):
        parts = [getattr(output, field.name) for field in fields(output)]
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def layer_distance(recorded: Layer, found: Layer) -> float:
    """Estimated relative L2 distance of two outputs of a layer, infinite where one of them is not finite."""
    if len(recorded.sketch) != len(found.sketch):
        return math.inf
    absolute = math.sqrt(float(np.mean((np.asarray(recorded.sketch) - np.asarray(found.sketch)) ** 2)))
    norm = min(recorded.norm, found.norm) or max(recorded.norm, found.norm)
    relative = absolute / norm if norm else absolute
    return relative if math.isfinite(relative) else math.inf


def finite(distances: Mapping[str, float]) -> dict[str, float | None]:
    """Distances as JSON can have them: None where one is infinite."""
    return {name: distance if math.isfinite(distance) else None for name, distance in distances.items()}


def first_divergence(
    recorded: Sequence[Layer], found: Mapping[str, Layer], allowed: float
) -> tuple[Layer, float] | None:
    """The first layer that gives something else than arithmetic explains, and how far off it is.

    Args:
        recorded: The layers on record, in the order in which they finished.
        found: The layers now, by path.
        allowed: The greatest relative distance that arithmetic explains.
    """
    for layer in recorded:
        if layer.module not in found:
            return layer, math.inf
        distance = layer_distance(layer, found[layer.module])
        if distance > max(allowed, layer.floor):
            return layer, distance
    return None


def sketched(path: str, tensor: torch.Tensor) -> Layer:
    """A tensor of any shape as it is written down, coarsely."""
    values = tensor.detach().to("cpu", torch.float64).numpy()
    norm = float(np.linalg.norm(values))
    return Layer(module=path, norm=_short(norm), sketch=[_short(value) for value in _projected(values)])


def _projected(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    flat = values.reshape(-1)
    rows = math.ceil(flat.size / _COLUMNS)
    table = np.zeros((rows, _COLUMNS))
    table.reshape(-1)[: flat.size] = flat
    projected: npt.NDArray[np.float64] = ((table @ _signs("columns", _COLUMNS)) * _signs("rows", rows)).sum(axis=0)
    return projected


def _signs(kind: str, count: int) -> npt.NDArray[np.float64]:
    """±1 of shape (count, 32), the same on every machine."""
    return _all_signs(kind, 1 << max(10, (count - 1).bit_length()))[:count]


@cache
def _all_signs(kind: str, count: int) -> npt.NDArray[np.float64]:
    stream = blake3(f"manifest/layers/v1\n{kind}\n".encode()).digest(length=PROJECTIONS // 8 * count)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(count, PROJECTIONS)
    return bits.astype(np.float64) * 2 - 1


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")

"""What was loaded from where: by which a model's weights are known to come from a checkpoint that has a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import nn

from manifest.document import Parent
from manifest.families import unwrap
from manifest.workflows.lineage import parent_of

_DEEPEST = 3


class Origins:
    """Tensors that were loaded from checkpoints, and the modules that took them."""

    def __init__(self) -> None:
        self._tensors: dict[int, tuple[ReferenceType[torch.Tensor], Parent]] = {}
        self._modules: WeakKeyDictionary[nn.Module, Parent] = WeakKeyDictionary()

    def loaded(self, path: Path, content: Any) -> None:
        """Note what was loaded from a file, where it has a manifest and is what that describes."""
        parent = parent_of(path)
        if parent is None:
            return
        self._tensors = {key: (kept, of) for key, (kept, of) in self._tensors.items() if kept() is not None}
        for found in _holdings(content):
            if isinstance(found, nn.Module):
                self._modules[unwrap(found)] = parent
            else:
                self._tensors[id(found)] = ref(found), parent

    def taken(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Note that a module took a state dict."""
        for tensor in state.values():
            kept, parent = self._tensors.get(id(tensor), (None, None))
            if kept is not None and parent is not None and kept() is tensor:
                self._modules[unwrap(module)] = parent
                return

    def of(self, module: nn.Module) -> list[Parent]:
        """What a module's weights were loaded from."""
        parent = self._modules.get(module)
        return [] if parent is None else [parent]


def _holdings(content: Any, depth: int = 0) -> Iterator[torch.Tensor | nn.Module]:
    """The tensors and modules of an object, as deep as state dicts lie."""
    if isinstance(content, torch.Tensor | nn.Module):
        yield content
    elif isinstance(content, Mapping) and depth < _DEEPEST:
        for value in content.values():
            yield from _holdings(value, depth + 1)

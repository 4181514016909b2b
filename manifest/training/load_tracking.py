"""What was loaded from where: by which a model's weights are known to come from a checkpoint that has a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import nn

from manifest.capture.provenance import parent_of
from manifest.families.wrappers import unwrap
from manifest.schema.document import Parent

_DEEPEST = 3


class Origins:
    """Tensors that were loaded from checkpoints, and the modules that took them."""

    def __init__(self) -> None:
        self._parents: dict[int, tuple[ReferenceType[torch.Tensor | nn.Module], Parent]] = {}

    def loaded(self, path: Path, content: Any) -> None:
        """Note what was loaded from a file, where it has a manifest and is what that describes."""
        parent = parent_of(path)
        if parent is None:
            return
        self._parents = {key: (kept, of) for key, (kept, of) in self._parents.items() if kept() is not None}
        for found in _holdings(content):
            self._note(found, parent)

    def taken(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """Note that a module took a state dict."""
        parent = next((found for tensor in state.values() if (found := self._parent(tensor)) is not None), None)
        if parent is not None:
            self._note(module, parent)

    def of(self, module: nn.Module) -> list[Parent]:
        """What a module's weights were loaded from."""
        parent = self._parent(module)
        return [] if parent is None else [parent]

    def _note(self, one: torch.Tensor | nn.Module, parent: Parent) -> None:
        """By identity, since tensors compare by value, and modules may."""
        one = unwrap(one) if isinstance(one, nn.Module) else one
        self._parents[id(one)] = ref(one), parent

    def _parent(self, one: object) -> Parent | None:
        kept, parent = self._parents.get(id(one), (None, None))
        return parent if kept is not None and kept() is one else None


def _holdings(content: Any, depth: int = 0) -> Iterator[torch.Tensor | nn.Module]:
    """The tensors and modules of an object, as deep as state dicts lie."""
    if isinstance(content, torch.Tensor | nn.Module):
        yield content
    elif isinstance(content, Mapping) and depth < _DEEPEST:
        for value in content.values():
            yield from _holdings(value, depth + 1)

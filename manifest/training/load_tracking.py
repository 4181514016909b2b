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
        self._parents: dict[int, tuple[ReferenceType[torch.Tensor | nn.Module], Parent, Path]] = {}

    def loaded(self, path: Path, content: Any) -> None:
        """Note what was loaded from a file, where it has a manifest and is what that describes."""
        parent = parent_of(path)
        if parent is None:
            return
        self._parents = {key: of for key, of in self._parents.items() if of[0]() is not None}
        for found in _holdings(content):
            self._note(found, parent, path)

    def taken(self, module: nn.Module, state: Mapping[str, Any]) -> Path | None:
        """Note that a module took a state dict; where the weights come from, if from a file with a manifest."""
        found = next((origin for tensor in state.values() if (origin := self._origin(tensor)) is not None), None)
        if found is None:
            return None
        self._note(module, *found)
        return found[1]

    def of(self, module: nn.Module) -> list[Parent]:
        """What a module's weights were loaded from."""
        found = self._origin(module)
        return [] if found is None else [found[0]]

    def _note(self, one: torch.Tensor | nn.Module, parent: Parent, path: Path) -> None:
        """By identity, since tensors compare by value, and modules may."""
        one = unwrap(one) if isinstance(one, nn.Module) else one
        self._parents[id(one)] = ref(one), parent, path

    def _origin(self, one: object) -> tuple[Parent, Path] | None:
        found = self._parents.get(id(one))
        return (found[1], found[2]) if found is not None and found[0]() is one else None


def _holdings(content: Any, depth: int = 0) -> Iterator[torch.Tensor | nn.Module]:
    """The tensors and modules of an object, as deep as state dicts lie."""
    if isinstance(content, torch.Tensor | nn.Module):
        yield content
    elif isinstance(content, Mapping) and depth < _DEEPEST:
        for value in content.values():
            yield from _holdings(value, depth + 1)

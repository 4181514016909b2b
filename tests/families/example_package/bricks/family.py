"""The family of bricks, found by `manifest` through the entry point in pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from bricks import WALLS, Wall, build
from manifest.errors import UnknownModelError
from manifest.families.adapter import Adapter, Draft, cast, precision_of
from manifest.families.protocol import Creation
from manifest.schema.document import Architecture


class Bricks(Adapter):
    """Adapter for walls."""

    name = "bricks"
    builder = "bricks.build"

    def recognises(self, module: nn.Module) -> bool:
        return isinstance(module, Wall)

    def resolve(self, creation: Creation) -> Draft:
        if creation.name not in WALLS:
            raise UnknownModelError(f"bricks has no wall {creation.name!r}, expected one of {', '.join(WALLS)}.")
        return Draft(creation.name, "Wall", WALLS[creation.name])

    def construct(self, draft: Draft) -> nn.Module:
        return cast(Wall(**draft.config), draft.precision)

    def create(self, creation: Creation) -> nn.Module:
        return build(creation.name)

    def recover(self, module: Any) -> Iterator[Draft]:
        config = {"width": module.width, "rows": len(module.rows)}
        name = next((name for name, wall in WALLS.items() if wall == config), None)
        yield Draft(name, "Wall", config, {}, precision_of(module))

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        del architecture
        return {name: "head" if name.startswith("head.") else "backbone" for name in names}

    def forward(self, ghost: Any) -> None:
        ghost(torch.empty(1, ghost.width, device="meta", dtype=ghost.head.weight.dtype))


FAMILY = Bricks()

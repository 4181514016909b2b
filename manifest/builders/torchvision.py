"""torchvision's `get_model`, with a memory."""

from __future__ import annotations

from typing import Any

from torch import nn

from manifest.builders.create_model import create_model as create_any


def get_model(name: str, **config: Any) -> nn.Module:
    """`torchvision.models.get_model`, remembered; see `manifest.create_model`."""
    return create_any(name, family="torchvision", **config)

"""A model of a user's own, by a factory that can be imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Pairs(nn.Module):
    """Answers with a dict of tuples, and with what is no tensor."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, Any]:
        y = self.linear(x)
        return {"pair": (y, y.sum(dim=-1)), "note": "none", "scaled": y if scale is None else y * scale[:, None]}

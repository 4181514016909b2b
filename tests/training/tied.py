"""A model of a user's own whose sizes no number of processes divides, with two names for one weight."""

from __future__ import annotations

import torch
from torch import nn


class Tied(nn.Module):
    """Answers with the likeness of each token to every other."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, tokens, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.norm(self.embedding(tokens)))
        return out


def build(tokens: int = 11, width: int = 7) -> Tied:
    return Tied(tokens, width)

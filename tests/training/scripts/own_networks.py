"""A network of one's own, as a training script imports it."""

from __future__ import annotations

import torch
from torch import nn


class Perceptron(nn.Module):
    """With what a training can disturb: batch statistics and dropout."""

    def __init__(self, width: int = 16, depth: int = 2, *, dropout: float = 0.1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(8, width)]
        for _ in range(depth):
            layers += [nn.BatchNorm1d(width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 3))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.layers(inputs)
        return answers

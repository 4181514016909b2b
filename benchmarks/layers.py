"""A model of many small tensors, for `counting.py`: a factory of the family `callable`."""

from __future__ import annotations

from torch import nn


def stack(tensors: int) -> nn.Sequential:
    """Layers with two tensors each."""
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(tensors // 2)))

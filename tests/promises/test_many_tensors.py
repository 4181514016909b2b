"""A model of many tensors: what is done for each of them does not grow with how many others there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifest.checkpoint import open_checkpoint
from manifest.families.meta_build import without_weights
from manifest.weights.assign import assign


class _Counting(nn.Linear):
    seen = 0

    def _load_from_state_dict(self, state_dict: Any, *others: Any) -> None:
        _Counting.seen += len(state_dict)
        super()._load_from_state_dict(state_dict, *others)


def test_each_module_is_given_its_own_tensors_and_looks_at_no_others(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(*(nn.Sequential(_Counting(2, 2)) for _ in range(50)))

    model = make()
    torch.save(model.state_dict(), tmp_path / "x.pt")
    with without_weights():
        empty = make()
    _Counting.seen = 0
    with open_checkpoint(tmp_path / "x.pt") as stored:
        assign(empty, stored)
        assert _Counting.seen == 2 * 50
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), empty.parameters(), strict=True))

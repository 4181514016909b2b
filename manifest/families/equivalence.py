"""Proof that a module built from a description is the live one: the same modules, names, shapes, types and tables."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from manifest.fingerprints.module_tree import changes, grouped
from manifest.fingerprints.structure import structure, ties


def first_difference(built: nn.Module, live: nn.Module) -> str | None:
    """The first way in which a rebuilt module is not the live one; None when it is.

    Weights are not compared, for the rebuilt one has none. Non-persistent buffers are, since no checkpoint has them.
    """
    if different := changes(structure(live), structure(built)):
        return grouped(different, limit=1)
    mine, yours = _signature(live), _signature(built)
    for name in sorted(mine.keys() | yours.keys()):
        if mine.get(name) != yours.get(name):
            return f"{name}: {mine.get(name, 'absent')} → {yours.get(name, 'absent')}"
    if ties(live) != ties(built):
        return f"tied weights: {ties(live)} → {ties(built)}"
    tables = dict(tables_of(built))
    for name, table in tables_of(live):
        if name not in tables or not _same(table, tables[name]):
            return f"{name}: a buffer that no checkpoint holds has other values"
    return None


def tables_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Non-persistent buffers by name: attention masks, rotary tables, window indices."""
    for path, child in module.named_modules():
        for name in sorted(child._non_persistent_buffers_set):
            if (table := child._buffers.get(name)) is not None:
                yield f"{path}.{name}" if path else name, table


def _signature(module: nn.Module) -> dict[str, str]:
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for name, tensor in (*module.state_dict().items(), *tables_of(module))
        if isinstance(tensor, torch.Tensor)
    }


def _same(live: torch.Tensor, built: torch.Tensor) -> bool:
    return live.is_meta or torch.equal(live.cpu(), built)

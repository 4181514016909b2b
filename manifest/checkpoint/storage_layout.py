"""Where the tensors of a pickle lie in a file, once it is known where its storages do.

What every pickled container has in common: tensors reach nowhere out of their storages, and do not expand what is
stored beyond measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from manifest.checkpoint.contents import StateDictCandidate
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.pickles.stand_ins import malformed
from manifest.checkpoint.pickles.torch_objects import PickledComposite, PickledTensor
from manifest.checkpoint.state_dicts import FoundState
from manifest.checkpoint.tensors import ITEM_SIZES, CompositeTensor, StoredTensor, StridedTensor
from manifest.errors import CheckpointError
from manifest.escaping import printable

_EXPANSION_FREE = 64 << 20
TOTAL_FREE = 1 << 30
"""Bytes that all tensors of a checkpoint together may take, whatever is stored."""

_MOST_EXPANSION = 16


def candidates(
    states: Iterable[FoundState], ranges: Mapping[str, tuple[int, int]], *, swapped: bool = False
) -> tuple[StateDictCandidate, ...]:
    """The sets of weights of an object, by their places in the file.

    Args:
        states: As they were found in the pickle.
        ranges: The byte range of each storage, by its key.
        swapped: Whether the storages are big-endian.
    """

    def placed(name: str, tensor: PickledTensor | PickledComposite) -> StoredTensor:
        if isinstance(tensor, PickledComposite):
            parts = {
                role: strided(f"{name}.{role}", part, ranges, swapped=swapped) for role, part in tensor.parts.items()
            }
            return CompositeTensor(name, tensor.dtype, tensor.shape, tensor.layout, parts, tensor.facts)
        return strided(name, tensor, ranges, swapped=swapped)

    found = []
    for state in states:
        prefix, tensors = strip_prefixes({name: placed(name, tensor) for name, tensor in state.tensors.items()})
        found.append(StateDictCandidate(tensors, state.path, prefix, state.average, state.unlisted, state.extras))
    return tuple(found)


def strided(
    name: str, tensor: PickledTensor, ranges: Mapping[str, tuple[int, int]], *, swapped: bool = False
) -> StridedTensor:
    """A pickled tensor, by the byte range in the file of the record that its storage is in.

    Raises:
        CheckpointError: `F004` when it is big-endian in a storage of bytes, which torch does not turn around.
    """
    wide = ITEM_SIZES[tensor.dtype] > 1
    if swapped and wide and tensor.storage.dtype is None:
        raise CheckpointError(
            f"tensor '{printable(name)}' of {tensor.dtype} is big-endian, and torch would read it wrongly on most "
            "machines; save the weights again on a little-endian one.",
            rule="F004",
        )
    storage = ranges[tensor.storage.key]
    start = storage[0] + tensor.storage.start
    return StridedTensor(
        name,
        tensor.dtype,
        tensor.shape,
        tensor.stride,
        start if 0 in tensor.shape else start + tensor.offset * ITEM_SIZES[tensor.dtype],
        storage,
        tensor.conjugated,
        tensor.negated,
        swapped=swapped and wide,
    )


def check_tensors(tensors: Iterable[PickledTensor], file_size: int) -> None:
    """Check that every tensor lies in its storage, and that overlapping ones do not add up to a bomb.

    Raises:
        CheckpointError: `F002` when one reaches out of its storage, `F003` when over a limit.
    """
    tensors = list(tensors)
    total = 0
    for tensor in tensors:
        itemsize = ITEM_SIZES[tensor.dtype]
        elements = 1
        last = tensor.offset
        for size, step in zip(tensor.shape, tensor.stride, strict=True):
            elements *= size
            last += (size - 1) * step
        # An empty tensor reaches nowhere, and torch lets its offset lie outside of the storage.
        bytes_needed = (last + 1) * itemsize if elements else 0
        if bytes_needed > tensor.storage.nbytes:
            raise malformed(
                f"a tensor reaches to byte {bytes_needed:,} of storage '{printable(tensor.storage.key)}', which has "
                f"{tensor.storage.nbytes:,}"
            )
        check_expansion("a tensor", elements * itemsize, tensor.storage.nbytes, _EXPANSION_FREE)
        total += elements * itemsize
    if total > _most(file_size, TOTAL_FREE):
        # Tied weights count once. Their text is compared: of numbers, a file can make all hashes the same.
        total = sum({repr(tensor): math.prod(tensor.shape) * ITEM_SIZES[tensor.dtype] for tensor in tensors}.values())
    check_expansion("all tensors", total, file_size, TOTAL_FREE)


def check_expansion(what: str, nbytes: int, stored: int, free: int) -> None:
    """Check that something does not become much larger than it is stored.

    Args:
        what: What it is, for the message.
        nbytes: Its bytes once read.
        stored: Its bytes in the file.
        free: Up to how many bytes it may take whatever is stored.

    Raises:
        CheckpointError: `F003` when it does.
    """
    if nbytes > _most(stored, free):
        raise CheckpointError(
            f"{what} would take {nbytes:,} bytes out of {stored:,} stored; "
            "do not load this file unless you know who made it and why it is so.",
            rule="F003",
        )


def _most(stored: int, free: int) -> int:
    return max(free, _MOST_EXPANSION * stored)

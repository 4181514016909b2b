"""Inputs told by names, types and shapes, with values that anybody can draw again: for a network of one's own.

The name of such a probe is all that is recorded of it: `shapes/1 x=float32[2,8] ids=int64[2,5]<100`. Numbers are drawn
from BLAKE3's output stream: real ones evenly between ±√3, of variance 1, whole ones below the bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import torch
from blake3 import blake3

from manifest.errors import ArchitectureError, InputError
from manifest.escaping import printable
from manifest.probes.inputs import Inputs

SHAPES = "shapes/1 "
_INPUT = re.compile(r"([A-Za-z_]\w{0,63})=(float32|float64|int64|int32|bool)\[(\d{1,9}(?:,\d{1,9})*)\](?:<(\d{1,18}))?")
_MOST_INPUTS, _MOST_ELEMENTS = 32, 1 << 24
_WHOLE = (torch.int64, torch.int32)


def shapes_probe(tensors: Mapping[str, torch.Tensor]) -> str:
    """The name of the probe that has inputs like these.

    Args:
        tensors: By the name of the argument they are for; their first dimension is the samples. Of whole numbers, the
            greatest is the greatest that is drawn.

    Raises:
        InputError: They are of another type, without samples, or too many.
    """
    words = []
    for name, tensor in tensors.items():
        kind = str(tensor.dtype).removeprefix("torch.")
        bound = f"<{int(tensor.max()) + 1}" if tensor.dtype in _WHOLE and tensor.numel() else ""
        words.append(f"{name}={kind}[{','.join(map(str, tensor.shape))}]{bound}")
    probe = SHAPES + " ".join(words)
    try:
        drawn(probe)
    except ArchitectureError as error:
        raise InputError(f"The example inputs cannot be recorded: {error}") from None
    return probe


def drawn(probe: str) -> Inputs:
    """The inputs of a probe of this kind, by its name; which may come from anyone.

    Raises:
        ArchitectureError: It is no such name, or of too many numbers.
    """
    matches = [_INPUT.fullmatch(word) for word in probe.removeprefix(SHAPES).split(" ")[: _MOST_INPUTS + 1]]
    if not all(matches) or len(matches) > _MOST_INPUTS:
        raise ArchitectureError(
            f"The probe '{printable(probe, 200)}' is none of inputs by their shapes, expected such as "
            f"'{SHAPES}x=float32[2,8]' with at most {_MOST_INPUTS} of float32, float64, int64, int32 or bool."
        )
    tensors: dict[str, torch.Tensor] = {}
    for match in filter(None, matches):
        shape = tuple(map(int, match[3].split(",")))
        if not 0 < math.prod(shape) <= _MOST_ELEMENTS:
            raise ArchitectureError(
                f"The input {match[1]} is recorded with {math.prod(shape):,} numbers, expected 1 to {_MOST_ELEMENTS:,}."
            )
        tensors[match[1]] = _draw(match[0], match[2], shape, int(match[4] or 2))
    names = {name: tuple(f"sample {index}" for index in range(len(tensor))) for name, tensor in tensors.items()}
    return Inputs(probe, tensors, names)


def _draw(seed: str, kind: str, shape: tuple[int, ...], bound: int) -> torch.Tensor:
    count = math.prod(shape)
    stream = blake3(f"manifest/shapes/v1\n{seed}".encode()).digest(length=8 * count)
    whole = np.frombuffer(stream, dtype="<u8").reshape(shape)
    if kind.startswith("float"):
        halves = (whole >> np.uint64(40)).astype(np.float64) / (1 << 23) - 1.0
        return torch.from_numpy(halves * math.sqrt(3)).to(getattr(torch, kind))
    return torch.from_numpy((whole % np.uint64(max(bound, 1))).astype(np.int64)).to(getattr(torch, kind))

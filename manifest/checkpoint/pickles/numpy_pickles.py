"""Arrays and single numbers of numpy's in a pickle, without numpy's own unpickling.

Training scripts keep them beside the weights: the state of numpy's random generator, a loss. torch's weights-only
unpickler refuses them, since what numpy does with a made-up state is not in torch's hands. Here a state is looked at
first: it must be the bytes of plain numbers, as many as its shape says.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c(?:8|16)")
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _Type:
    """What stands for a `numpy.dtype` of plain numbers while a pickle is read."""

    def __init__(self, code: str, *_: object) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise ValueError("it holds a numpy array of other things than plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise ValueError("it holds a numpy array of numbers in no byte order")
        self.dtype = self.dtype.newbyteorder(order)


class PlainArray(np.ndarray[Any, Any]):
    """An array whose state was looked at before it was taken; written again, it is an array like all others."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type) or not isinstance(data, bytes) or not _is_shape(shape):
            raise ValueError("it holds a numpy array that is not the bytes of plain numbers")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError(f"it holds a numpy array of shape {shape} in {len(data):,} bytes")
        super().__setstate__((1, shape, kind.dtype, bool(fortran), data))  # type: ignore[arg-type]

    def __reduce__(self) -> Any:
        return self.view(np.ndarray).__reduce__()


def _array(*_: object) -> PlainArray:
    """For `_reconstruct`: its arguments are the class, and what the state says again."""
    return PlainArray((0,), dtype=np.uint8)


def _number(kind: Any, data: Any) -> Any:
    """For `scalar`: one number."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("it holds a number of numpy's that is not the bytes of one")
    return np.frombuffer(data, kind.dtype)[0]


def _no_bytes(*arguments: object) -> bytes:
    """For `bytes`: how the bytes of an array without elements are written."""
    if arguments:
        raise ValueError("it makes bytes in another way than by holding them")
    return b""


def _is_shape(shape: Any) -> bool:
    """Whether it is a shape, and one that numpy counts the elements of: sides beside a 0 count there as well."""
    return (
        isinstance(shape, tuple)
        and len(shape) <= 32
        and all(type(size) is int and size >= 0 for size in shape)
        and math.prod(max(1, size) for size in shape) < 1 << 40
    )


READERS: tuple[tuple[Any, str], ...] = (
    (_Type, "numpy.dtype"),
    (PlainArray, "numpy.ndarray"),
    (_no_bytes, "builtins.bytes"),
    *((_array, f"{module}._reconstruct") for module in _MODULES),
    *((_number, f"{module}.scalar") for module in _MODULES),
)
"""What reads each global of numpy's, as `torch.serialization.safe_globals` takes it."""

"""Sizes that a record may ask for: what is beyond every model is refused before anything is built.

A manifest may come from anyone, and a width of a billion, or an image of a million pixels a side, would take all memory
or all time. The bounds are some powers of two above the largest models and images there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from manifest.errors import ArchitectureError
from manifest.schema.document import Preprocess

LARGEST_SIDE = 1 << 13
"""Pixels of an image."""

_LARGEST = {
    **dict.fromkeys(("image_size", "img_size", "input_size"), LARGEST_SIDE),
    **dict.fromkeys(("layers", "depth", "depths", "num_layers"), 1 << 10),
    "context_length": 1 << 13,
    "attn_pooler_queries": 1 << 14,
}
_LARGEST_OTHERWISE = 1 << 21


def largest_by_name(name: str) -> float:
    """The greatest absolute value that a number of this name has in the configs of open_clip, timm and torchvision."""
    return _LARGEST.get(name, _LARGEST_OTHERWISE)


def require_sane(config: Mapping[str, Any], largest: Callable[[str], float] = largest_by_name) -> None:
    """Refuse numbers that no model has and that would exhaust memory or time.

    Args:
        config: Of any depth.
        largest: The greatest absolute value that a number of some name may have.

    Raises:
        ArchitectureError: One is greater; the message names it.
    """
    for name, value in _numbers("config", config):
        limit = largest(name)
        if not abs(value) <= limit:
            raise ArchitectureError(
                f"The config gives {name} as {value!r:.40}, expected at most {limit:,}; "
                "get the manifest from a source you trust."
            )


def require_sane_images(record: Preprocess, largest: float | None = None) -> None:
    """Refuse a preprocessing whose images are larger than any model takes.

    Args:
        record: A recorded preprocessing.
        largest: The longest side on the way there, in pixels, where images are resized before they are cropped.

    Raises:
        ValueError: They are, or they have no size.
    """
    sides = [*record.size, *(record.resize or ())]
    if not sides or not all(0 < side <= LARGEST_SIDE for side in sides):
        raise ValueError(f"size {sides!r:.40}")
    if largest is not None and not 0 < largest <= 2 * LARGEST_SIDE:
        raise ValueError(f"resized to {largest!r:.40} pixels")


@contextmanager
def as_recorded(record: Preprocess, library: str) -> Iterator[None]:
    """Inside, a library makes its preprocessing of a record, which may come from anyone.

    Raises:
        ArchitectureError: It is none that the library has.
    """
    try:
        yield
    except (AssertionError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ArchitectureError(
            f"The recorded preprocessing is none that {library} has ({' '.join(str(error).split()) or record!r:.300}); "
            "get the manifest from a source you trust."
        ) from error


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number by its name; those in lists have the name of the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            # What JSON lacks is an object whose key begins with `$`; its values are still of the name outside.
            yield from _numbers(name if str(key).startswith("$") else str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(name, item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value

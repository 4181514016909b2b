"""Whatever a model returns as named tensors: dicts, tuples, lists, dataclasses and what is nested in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from manifest.errors import ArchitectureError

MOST_OUTPUTS = 64
_DEEPEST = 8


def flatten(answer: Any, name: str = "output") -> dict[str, torch.Tensor]:
    """The tensors in what a model returned, by where they are in it: `output`, `output.0`, `output.logits`.

    Caches of attention and whatever else is no tensor are left out.

    Raises:
        ArchitectureError: There is no tensor in it, or there are more than a record has room for.
    """
    found: dict[str, torch.Tensor] = {}
    for path, tensor in _tensors(answer, name, 0):
        found[path] = tensor
        if len(found) > MOST_OUTPUTS:
            raise ArchitectureError(
                f"The model answers with more than {MOST_OUTPUTS} tensors; wrap it to return those that matter."
            )
    if not found:
        raise ArchitectureError(
            f"The model answers with a {type(answer).__name__} in which there is no tensor; "
            "wrap it so that it returns one, or save it with `golden=False`."
        )
    return found


def _tensors(value: Any, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth < _DEEPEST:
        for key, part in _parts(value):
            yield from _tensors(part, f"{path}.{key}", depth + 1)


def _parts(value: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))

"""How large the numbers of a config may be: a manifest may come from anyone, and building it must not exhaust memory.

What each number is called and means, a family says; here they are only found and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from manifest.errors import ArchitectureError


def require_sane(config: Mapping[str, Any], largest: Callable[[str], float]) -> None:
    """Refuse numbers that no model has and that would exhaust memory or time.

    Args:
        config: Of any depth.
        largest: The greatest absolute value that a number of some name may have.

    Raises:
        ArchitectureError: One is greater; the message names it.
    """
    for name, value in _numbers("config", config):
        limit = largest(name)
        if abs(value) > limit:
            raise ArchitectureError(
                f"The config gives {name} as {value!r:.40}, expected at most {limit:,}; "
                "get the manifest from a source you trust."
            )


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number by its name; those in lists have the name of the list."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(str(key), item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(name, item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value

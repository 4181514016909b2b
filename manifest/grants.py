"""Which modules of the user's own may be imported to rebuild a model: importing is running code, so a caller says so.

A grant holds inside a `with` block, in its own context, and covers a module and what is inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_GRANTED: ContextVar[frozenset[str]] = ContextVar("granted", default=frozenset())


@contextmanager
def granted(modules: Iterable[str]) -> Iterator[None]:
    """Inside, these modules may be imported, besides those that were granted before.

    Args:
        modules: Their names; `mypkg` grants `mypkg` and `mypkg.models`, and not `mypkg2`.
    """
    token = _GRANTED.set(_GRANTED.get() | set(modules))
    try:
        yield
    finally:
        _GRANTED.reset(token)


def granted_now() -> list[str]:
    """The modules that may be imported here, for another process that does the same work."""
    return sorted(_GRANTED.get())


def is_granted(module: str) -> bool:
    """Whether a module, by its name, may be imported."""
    return any(module == name or module.startswith(f"{name}.") for name in _GRANTED.get() if name)

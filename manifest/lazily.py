"""Libraries that are imported when something of them is needed, and not before: the start of a command is short."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """A module in name; what is asked of it is looked up in the real one, once."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(import_module(self.__name__), name)
        setattr(self, name, found)
        return found


def lazily(name: str) -> Any:
    """A module that is imported when an attribute of it is first asked for.

    Args:
        name: Its full name. Who writes `if TYPE_CHECKING: import NAME` beside this keeps its types.
    """
    return _Lazy(name)

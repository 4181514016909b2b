"""Engines: what calls a function with many things, in processes somewhere, and gives each result when it is there.

An engine is a function (`Engine`), so another one is a function too. A process that ends, as where memory is short, is
no reason to stop: what it was doing is done once more, by a process that does nothing else, and lost if that one ends
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, Protocol, TypeVar

from manifest.errors import InputError
from manifest.escaping import printable

T = TypeVar("T")
R = TypeVar("R")


class LostError(Exception):
    """The process that did it ended, twice."""


class Engine(Protocol):
    """Calls a function with many things."""

    def __call__(
        self, function: Callable[[T], R], items: Iterable[T], workers: int | None
    ) -> Iterator[tuple[T, R | LostError]]:
        """Each thing with its result, as they come.

        Args:
            function: What is called. It raises nothing.
            items: What with, each once; they are taken as the work goes on, a few for each worker.
            workers: How many calls are under way at a time, at most; None for one on each processor.
        """


_ENGINES = {"local": "manifest.fleet.processes", "ray": "manifest.fleet.cluster"}
"""Modules, each with a function `run`."""


def engine_of(engine: str | Engine) -> Engine:
    """An engine by its name, or as it is.

    Raises:
        InputError: There is none of that name.
    """
    if not isinstance(engine, str):
        return engine
    if engine not in _ENGINES:
        names = " or ".join(_ENGINES)
        raise InputError(f"There is no engine {printable(engine)}; name {names}, or pass a function.")
    found: Any = import_module(_ENGINES[engine])
    return found.run  # type: ignore[no-any-return]

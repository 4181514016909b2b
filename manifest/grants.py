"""Which code of the user's own may be run to rebuild a model: a caller says so, by modules and scripts.

A grant holds inside a `with` block, in its own context, and covers a module and what is inside it, or a script, by its
path; with `changed:` before that, also a script that is not what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

NOTEBOOK = "notebook.ipynb"
"""The name of a notebook that does not know its own; whichever is granted is meant."""
_CHANGED = "changed:"
_INSTALLED = frozenset({"site-packages", "dist-packages"})
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


def granted_script(name: str) -> Path | None:
    """Where a script lies that may be run, by its file name; None where none of that name was granted."""
    found = (Path(each.removeprefix(_CHANGED)) for each in sorted(_GRANTED.get()))
    return next((path for path in found if _is_called(path, name)), None)


def is_granted_changed(name: str) -> bool:
    """Whether a script, by its file name, may be run though it is not what it was."""
    granted = (each.removeprefix(_CHANGED) for each in _GRANTED.get() if each.startswith(_CHANGED))
    return any(_is_called(Path(each), name) for each in granted)


def is_installed(file: str) -> bool:
    """Whether a file of code is of an installed package, and not of the user's own."""
    return bool(_INSTALLED.intersection(Path(file).parts))


def _is_called(path: Path, name: str) -> bool:
    return path.name == name or (name == NOTEBOOK and path.suffix == ".ipynb")

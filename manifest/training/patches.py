"""Functions replaced wherever they are known by name, until that is undone.

A script that said `from open_clip import create_model` holds the function itself, so that replacing it in its module
alone would not be noticed. So every module that is imported is looked through, and a module that is not imported yet is
patched when it is.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from manifest.grants import is_installed

Function = Callable[..., Any]
Wrapping = Callable[[Function], Function]
"""From a function to what is called in its stead; it gets the function itself to call."""

_OWN = "manifest"
_INITIALIZING = "_initializing"


class Patches:
    """Replacements of functions of modules; a context manager that undoes them all."""

    def __init__(self) -> None:
        self._waiting = WhenImported()
        self._originals: dict[int, tuple[Function, Function]] = {}
        self._methods: list[tuple[type, str, Any]] = []

    def __enter__(self) -> Patches:
        sys.meta_path.insert(0, self._waiting)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not self._waiting]
        _rebind({id(new): (new, old) for old, new in self._originals.values()})
        self._originals.clear()
        for owner, name, original in reversed(self._methods):
            setattr(owner, name, original)
        self._methods.clear()

    def wrap(self, module: str, wrappings: Mapping[str, Wrapping]) -> None:
        """Replace functions of a module, now or when it is imported; those that it has not are passed over."""
        self.when_imported(module, lambda loaded: self._wrap(loaded, wrappings))

    def when_imported(self, module: str, call: Callable[[ModuleType], None]) -> None:
        """Call something with a module, now or when it is imported."""
        loaded = sys.modules.get(module)
        if loaded is not None and _is_being_imported(loaded):
            _Unfinished.of(loaded).calls.append(call)
        elif loaded is not None:
            call(loaded)
        else:
            self._waiting.calls.setdefault(module, []).append(call)

    def wrap_method(self, owner: type, name: str, wrapping: Wrapping) -> None:
        """Replace a method of a class, or a class method, whose function gets the class first."""
        original = vars(owner).get(name, getattr(owner, name))
        function = original.__func__ if isinstance(original, classmethod) else original
        new = functools.wraps(function)(wrapping(function))
        setattr(owner, name, classmethod(new) if isinstance(original, classmethod) else new)
        self._methods.append((owner, name, original))

    def _wrap(self, module: ModuleType, wrappings: Mapping[str, Wrapping]) -> None:
        added = {}
        for name, wrapping in wrappings.items():
            original = vars(module).get(name)
            if callable(original) and id(original) not in self._originals:
                added[id(original)] = (original, functools.wraps(original)(wrapping(original)))
        self._originals |= added
        _rebind(added)


class _Unfinished(ModuleSpec):
    """The spec of a module whose import has begun and not ended, such as one that imports torch at its top.

    Python's import system says on it when that has ended.
    """

    calls: list[Callable[[ModuleType], None]]

    @classmethod
    def of(cls, module: ModuleType) -> _Unfinished:
        """The spec of such a module, which calls what is put among its `calls` with the module once it is there."""
        spec = module.__spec__
        if not isinstance(spec, cls):
            assert spec is not None
            spec.__class__ = cls
            assert isinstance(spec, cls)
            spec.calls = []
        return spec

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == _INITIALIZING and not value:
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if self.name in sys.modules:  # its import has not failed
                for call in self.calls:
                    call(sys.modules[self.name])


def _is_being_imported(module: ModuleType) -> bool:
    spec = vars(module).get("__spec__")  # what a module that loads its parts when they are asked for would not notice
    return type(spec) in (ModuleSpec, _Unfinished) and getattr(spec, _INITIALIZING, False)


def when_libraries_are_imported(call: Callable[[], None]) -> None:
    """Call something now, or when the installed library whose import is going on is there, with all that it imports.

    A module of the user's own, which may train while it is imported, is not waited for.
    """
    library = None
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and _is_being_imported(module):
            library = (library or module) if is_installed(vars(module).get("__file__") or "") else None
    if library is None:
        call()
    else:
        _Unfinished.of(library).calls.append(lambda _: call())


class WhenImported(MetaPathFinder):
    """Calls something when a module has been imported; finds none itself.

    Whoever asks where a module is, as libraries do to see whether it is installed, has not imported it.
    """

    def __init__(self) -> None:
        self.calls: dict[str, list[Callable[[ModuleType], None]]] = {}
        self._searched: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name not in self.calls or name in self._searched:
            return None
        self._searched.add(name)  # so that the search below comes to the others
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searched.discard(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            for call in self.calls.pop(name, ()):
                call(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def _rebind(replacements: Mapping[int, tuple[Function, Function]]) -> None:
    """Everywhere but in this package: each function, by its identity, becomes another."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == _OWN or not isinstance(module, ModuleType):
            continue
        names = vars(module)
        for key, value in list(names.items()):
            found = replacements.get(id(value))
            if found is not None and found[0] is value:
                names[key] = found[1]

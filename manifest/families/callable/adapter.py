"""The callable family: any module of the user's own, by a factory that can be imported and its JSON arguments.

A factory is written `package.module:name`. Importing it is running its code, and a manifest may come from anyone, so a
module is imported only where the caller grants it by name, and only what is defined in granted modules is called: a
name that a module imported from elsewhere (`os.system`) is not its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from manifest.errors import ArchitectureError, InputError, NotGrantedError, UnknownModelError, one_line
from manifest.families.adapter import Adapter, Draft, cast, precision_of
from manifest.families.json_arguments import as_data, from_data
from manifest.families.protocol import Captured, Creation
from manifest.grants import is_granted

AS_BUILT = "as_built"
"""The precision of a model that is as its factory makes it, whatever that is."""


class Factory(Adapter):
    """Adapter for modules that a function or class of the user's own makes."""

    name = "callable"
    builder = "importlib.import_module"

    def recognises(self, module: nn.Module) -> bool:
        del module  # only the call can tell
        return False

    def resolve(self, creation: Creation) -> Draft:
        arguments = as_data(dict(creation.arguments), "arguments")
        return Draft(creation.name, "", arguments, arguments, AS_BUILT)

    def construct(self, draft: Draft) -> nn.Module:
        """What the factory makes.

        Raises:
            NotGrantedError: Its module may not be imported.
            ArchitectureError: It makes no module.
        """
        name = str(draft.name)
        built = _factory(name)(**from_data(draft.config))
        if not isinstance(built, nn.Module):
            raise ArchitectureError(
                f"The factory {name!r} returns a {type(built).__name__}, expected a torch.nn.Module; correct it."
            )
        return built if draft.precision == AS_BUILT else cast(built, draft.precision)

    def create(self, creation: Creation) -> nn.Module:
        return self.construct(self.resolve(creation))

    def _drafts(self, module: nn.Module, creation: Creation | None) -> Iterator[Draft]:
        for draft in super()._drafts(module, creation):
            yield draft
            if draft.precision == AS_BUILT:
                yield replace(draft, precision=precision_of(module))

    def _captured(self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None) -> Captured:
        return super()._captured(replace(draft, class_name=type(built).__name__), built, live, creation)


FAMILY = Factory()


def module_of(name: str) -> str:
    """The module of a factory's name, which is imported to call it.

    Raises:
        InputError: It is no name of a factory, or of one that nobody else can import.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise InputError(f"{name!r} names no factory, expected 'package.module:function_or_Class'; correct it.")
    if module == "__main__":
        raise InputError(
            f"The factory {name!r} is in the script that runs, which cannot be imported elsewhere; "
            "move it into a module of its own."
        )
    return module


def _factory(name: str) -> Callable[..., Any]:
    module, attribute = module_of(name), name.rpartition(":")[2]
    _require_granted(module, f"The factory {name!r} is in")
    try:
        with _working_directory_on_path():
            found: Any = getattr(import_module(module), attribute)
    except Exception as error:  # the user's own module may fail in any way while it is imported
        raise UnknownModelError(
            f"The factory {name!r} cannot be imported ({type(error).__name__}: {one_line(error)}); "
            "put its package on the path, or correct the name."
        ) from error
    home = getattr(found, "__module__", None)
    if not callable(found) or not isinstance(home, str):
        raise ArchitectureError(
            f"{name!r} is a {type(found).__name__}, expected a function or class; correct the name."
        )
    _require_granted(home, f"The factory {name!r} is defined in")
    factory: Callable[..., Any] = found
    return factory


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Inside, the working directory comes last on the path of modules, as it comes first for a script in it.

    Only a module that somebody granted is imported here; the command line would not find one beside a script otherwise.
    """
    place = str(Path.cwd())
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path.reverse()
        sys.path.remove(place)  # the last of its name, which is the one that was added
        sys.path.reverse()


def _require_granted(module: str, what: str) -> None:
    if not is_granted(module):
        raise NotGrantedError(
            f"{what} the module {module!r}, and importing it runs its code; if you trust it, "
            f"pass allow=[{module!r}] (`--allow {module}`)."
        )

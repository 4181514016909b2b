"""The callable family: any module of the user's own, by a factory that can be imported and its JSON arguments.

A factory is written `package.module:name`. Importing it is running its code, and a manifest may come from anyone, so a
module is imported only where the caller grants it by name, and only what is defined in granted modules is called: a
name that a module imported from elsewhere (`os.system`) is not its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from manifest.digests import text_digest
from manifest.errors import (
    ArchitectureError,
    InputError,
    NotGrantedError,
    SourceChangedError,
    UnknownModelError,
    one_line,
)
from manifest.families.adapter import Adapter, Draft, cast, precision_of
from manifest.families.callable.script import MAIN, Script, difference, find_in_main, is_script, own_name, read, running
from manifest.families.json_arguments import Written, as_data, from_data
from manifest.families.protocol import Captured, Creation
from manifest.grants import granted_script, is_granted, is_granted_changed
from manifest.schema.document import SOURCE_LENGTH, Architecture, Source

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
        arguments = as_data(creation.arguments, "arguments", own=partial(own_name, creation.name))
        return Draft(creation.name, "", arguments, arguments, AS_BUILT)

    def arguments_of(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return Written(record)  # what classes of the user's own it names is found when it is built

    def construct(self, draft: Draft) -> nn.Module:
        """What the factory makes.

        Raises:
            NotGrantedError: Its module may not be imported.
            ArchitectureError: It makes no module.
        """
        name = str(draft.name)
        built = _factory(name)(**from_data(draft.config, lambda kind: _defined(name, kind)))
        if not isinstance(built, nn.Module):
            raise ArchitectureError(
                f"The factory {name!r} returns a {type(built).__name__}, expected a torch.nn.Module; correct it."
            )
        return built if draft.precision == AS_BUILT else cast(built, draft.precision)

    def create(self, creation: Creation) -> nn.Module:
        return self.construct(self.resolve(creation))

    def build(self, architecture: Architecture) -> nn.Module:
        if (change := source_change(architecture)) is not None and not is_granted_changed(_home(architecture)):
            raise SourceChangedError(_home(architecture), change)
        return super().build(architecture)

    def _drafts(self, module: nn.Module, creation: Creation | None) -> Iterator[Draft]:
        for draft in super()._drafts(module, creation):
            yield draft
            if draft.precision == AS_BUILT:
                yield replace(draft, precision=precision_of(module))

    def _captured(self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None) -> Captured:
        captured = super()._captured(replace(draft, class_name=type(built).__name__), built, live, creation)
        if (text := _source(str(draft.name))) is not None:
            kept = text if len(text) <= SOURCE_LENGTH else None
            source = Source(digest=text_digest(text.splitlines()), text=kept)
            return Captured(captured.architecture.model_copy(update={"source": source}), captured.module)
        return captured


FAMILY = Factory()


def module_of(name: str) -> str:
    """The module of a factory's name, which is imported to call it, or the file name of a script.

    Raises:
        InputError: It is no name of a factory, or of one that nobody else can import.
    """
    module, colon, attribute = name.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    if not colon or not attribute.isidentifier() or not (dotted or is_script(module)):
        raise InputError(f"{name!r} names no factory, expected 'package.module:function_or_Class'; correct it.")
    if module in MAIN:
        raise InputError(
            f"The factory {name!r} is in the script that runs, which cannot be read elsewhere; "
            "move it into a module of its own."
        )
    return module


def source_change(architecture: Architecture) -> str | None:
    """What changed in a script since a model that it defines was saved, as a diff; None where nothing did.

    Raises:
        ManifestError: The script is not at hand, or was not granted.
    """
    if architecture.source is None or architecture.name is None:
        return None
    text = _source(architecture.name) or ""
    if text_digest(text.splitlines()) == architecture.source.digest:
        return None
    recorded = architecture.source.text
    return "what it was is not on record" if recorded is None else difference(recorded, text, _home(architecture))


def _home(architecture: Architecture) -> str:
    return str(architecture.name).partition(":")[0]


def _source(name: str) -> str | None:
    """The statements that a factory in a script needs; None of one in a module."""
    module, attribute = module_of(name), name.rpartition(":")[2]
    return _script(module, name).needed(attribute) if is_script(module) else None


def _script(module: str, name: str) -> Script:
    """A script by its file name: the one that runs, or the one that was granted."""
    granted = granted_script(module)
    if granted is None:
        raise NotGrantedError(
            f"The factory {name!r} is in the script {module!r}, and importing it runs code of it; if you trust it, "
            f"pass allow=['PATH/{module}'] (`--allow PATH/{module}`), with the path where it lies."
        )
    now = running()
    if now is not None and now.path.name == module and granted == Path(module):
        return now
    return read(granted)


def _factory(name: str) -> Callable[..., Any]:
    found = _defined(name, name.rpartition(":")[2])
    if not callable(found):
        raise _no_factory(name, found)
    factory: Callable[..., Any] = found
    return factory


def _defined(name: str, own: str) -> Any:
    """A class or function that is defined where a factory is, or in another module or script that was granted.

    Args:
        name: The factory.
        own: The name of the class or function; see `script.own_name`.
    """
    home, _, factory = name.partition(":")
    full = own if ":" in own else f"{home}:{own}"
    module, attribute = module_of(full), full.rpartition(":")[2]
    if is_script(module):
        return _script(module, full).find(attribute, beside=factory if module == home else attribute)
    found = _imported(module, attribute, full)
    defined_in = getattr(found, "__module__", None)
    if not isinstance(defined_in, str):
        raise _no_factory(full, found)
    if defined_in not in MAIN:
        _require_granted(defined_in, f"{full!r} is defined in")
    return found


def _no_factory(name: str, found: object) -> ArchitectureError:
    return ArchitectureError(f"{name!r} is a {type(found).__name__}, expected a function or class; correct the name.")


def _imported(module: str, attribute: str, name: str) -> Any:
    _require_granted(module, f"{name!r} is in")
    if (found := find_in_main(module, attribute)) is not None:
        return found
    try:
        with _working_directory_on_path():
            return getattr(import_module(module), attribute)
    except Exception as error:  # the user's own module may fail in any way while it is imported
        raise UnknownModelError(
            f"The factory {name!r} cannot be imported ({type(error).__name__}: {one_line(error)}); "
            "put its package on the path, or correct the name."
        ) from error


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

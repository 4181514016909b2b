"""One adapter a model library: from a live module to an architecture, and back to a module.

A family is added by one file and one line in `_BUILT_IN`, or, from outside this package, by an entry point in the group
`manifest.families` that names an instance. Everything above this room speaks to models through the `Family` protocol.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from weakref import WeakValueDictionary

from torch import nn

from manifest.errors import ArchitectureError, LibraryMissingError
from manifest.families.protocol import Creation, Family
from manifest.installing import what_is_missing

_BUILT_IN = {
    "open_clip": "open_clip",
    "timm": "timm",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "callable": "torch",
    "opaque": "torch",
}
"""Families in this package, and the library without which no module can be of them."""
_CREATION = "_manifest_creation"
_WHY_NOT = "_manifest_why_not"
_MADE: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""By identity: a module of one's own need not be hashable."""
_TOLD: list[Callable[[nn.Module, Creation], None]] = []
"""Who is told how modules are made."""


@cache
def family(name: str) -> Family:
    """The family of a name.

    Raises:
        LibraryMissingError: There is none, or its library is not installed; the message says what to install.
    """
    if name in _BUILT_IN:
        try:
            found: Family = import_module(f"manifest.families.{name}.adapter").FAMILY
        except ModuleNotFoundError as error:
            missing = what_is_missing(error)
            if missing is None:
                raise
            raise LibraryMissingError(f"The family {name} {missing}.") from None
        return found
    for entry in entry_points(group="manifest.families", name=name):
        loaded: Family = entry.load()
        return loaded
    raise LibraryMissingError(
        f"No family is called {name!r}, expected one of {', '.join(sorted(_names()))}; "
        "install the package that adds it."
    )


def family_of(module: nn.Module) -> Family:
    """The family that made a module.

    Raises:
        ArchitectureError: None did.
    """
    creation = creation_of(module)
    if creation is not None and creation.family is not None:
        return family(creation.family)
    for name in _names():
        if _BUILT_IN.get(name, "torch") in sys.modules and family(name).recognises(module):
            return family(name)
    if hasattr(module, "peft_config"):
        raise ArchitectureError(
            f"This {type(module).__name__} has adapters around a model, which no architecture of a library has; "
            "save what `model.merge_and_unload()` gives, or the adapters by their own `save_pretrained`."
        )
    known = ", ".join(name for name in _names() if name != "opaque")
    raise ArchitectureError(
        f"A {type(module).__module__}.{type(module).__name__} is of no known family, "
        f"expected a model of {known}; save the model itself, not a wrapper of your own."
    )


@cache
def _names() -> tuple[str, ...]:
    return (*_BUILT_IN, *(entry.name for entry in entry_points(group="manifest.families")))


def remember(module: nn.Module, creation: Creation) -> None:
    """Note on a module how it was made; the note is no parameter, buffer or part of the state dict."""
    object.__setattr__(module, _CREATION, creation)
    _MADE[id(module)] = module
    tell_of(module, creation)


def tell_of(module: nn.Module, creation: Creation) -> None:
    """Tell how a module was made, and note nothing on it."""
    for tell in _TOLD:
        tell(module, creation)


@contextmanager
def told_of_creations(tell: Callable[[nn.Module, Creation], None]) -> Iterator[None]:
    """Inside, something is called with each module that is made, and with how."""
    _TOLD.append(tell)
    try:
        yield
    finally:
        _TOLD.remove(tell)


def remember_why_not(module: nn.Module, why: str) -> None:
    """Note on a module why it is not known how it was made, as the rest of a sentence."""
    object.__setattr__(module, _WHY_NOT, why)


def why_not_known(module: nn.Module) -> str | None:
    """Why it is not known how a module was made, if `remember_why_not` was told."""
    why = vars(module).get(_WHY_NOT)
    return why if isinstance(why, str) else None


def tracked() -> list[nn.Module]:
    """The modules that are alive of those whose making was remembered, in no order."""
    return list(_MADE.values())


def creation_of(module: nn.Module) -> Creation | None:
    """How a module was made, if `remember` was told."""
    creation = vars(module).get(_CREATION)
    return creation if isinstance(creation, Creation) else None

"""Remembering how models are made, in calls to the libraries' own builders.

What a call asks for is noted on the model that it returns, as `manifest.create_model` does. A model whose call was not
seen, or cannot be noted, is described by what it shows. And each way in which a model was made, but for parts of
others, goes into the record of the run.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

from pydantic import ValidationError
from torch import nn

from manifest.errors import InputError
from manifest.families import creation_of, remember, remember_why_not, tell_of, told_of_creations
from manifest.families.callable.script import name_of, own_name
from manifest.families.json_arguments import as_data
from manifest.families.protocol import Creation
from manifest.families.transformers.building import data_of
from manifest.storage.run_record import MadeModel
from manifest.storage.suppress_recording import recording_suppressed
from manifest.training.patches import Function, Patches

_LIBRARIES = (
    "torch",
    "open_clip",
    "timm",
    "torchvision",
    "transformers",
    "lightning",
    "pytorch_lightning",
    "accelerate",
)
_BUILDERS = ("create_model", "build")
"""What the functions here are called that stand in for libraries' builders."""


def remember_makers(patches: Patches) -> None:
    """Have the builders of all libraries noted, those too that are not imported yet."""
    patches.wrap("open_clip.factory", {"create_model": _of_open_clip})
    patches.wrap("timm.models._factory", {"create_model": partial(_by_name, family="timm")})
    patches.wrap("torchvision.models._api", {"get_model": partial(_by_name, family="torchvision")})
    patches.when_imported("torchvision.models", lambda module: _wrap_builders(patches, module))
    patches.wrap_method(nn.Module, "__init__", _of_own_class)


@contextmanager
def models_that_are_made(tell: Callable[[MadeModel], None]) -> Iterator[None]:
    """Inside, something is called with each model that is made and can be written down, parts of others left out."""

    def remembered(module: nn.Module, creation: Creation) -> None:
        if recording_suppressed() or _is_part(module, sys._getframe(1)):
            return
        with contextlib.suppress(InputError, ValidationError):  # it cannot be written down
            tell(_written(creation))

    with told_of_creations(remembered):
        yield


def _written(creation: Creation) -> MadeModel:
    """How a model was made, for the record of the run.

    Raises:
        InputError: Its arguments cannot be written down.
        ValidationError: A name of it is not Unicode.
    """
    family, architecture = creation.family or "open_clip", creation.architecture
    if architecture is not None:  # it was loaded, and its manifest has them as JSON
        arguments: Any = dict(architecture.arguments)
        if family == "transformers":
            arguments["config"] = architecture.config
    else:
        own = partial(own_name, creation.name) if family == "callable" else None
        arguments = as_data(dict(creation.arguments), "arguments", own=own)
    return MadeModel(family=family, name=creation.name, arguments=arguments, pretrained=creation.pretrained)


def _is_part(module: nn.Module, frame: FrameType | None) -> bool:
    """Whether a module is being made by another of its library, or by a builder that another builder calls."""
    builders = 0
    while frame is not None:
        code = frame.f_code
        if code.co_filename == __file__ and code.co_name in _BUILDERS:
            builders += 1
        elif code.co_name == "__init__" and code.co_argcount:
            maker = frame.f_locals.get(code.co_varnames[0])
            if isinstance(maker, nn.Module) and maker is not module and _library(maker) == _library(module):
                return True
        frame = frame.f_back
    return builders > 1


def _library(module: nn.Module) -> str:
    """The library that a module's class is of, empty for the user's own code."""
    package = type(module).__module__.partition(".")[0]
    return package if package in _LIBRARIES else ""


def _of_open_clip(original: Function) -> Function:
    signature = inspect.signature(original)

    def create_model(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        arguments = dict(signature.bind(*args, **kwargs).arguments)
        arguments |= arguments.pop("model_kwargs", {})
        name = arguments.pop("model_name")
        if ":" not in name:  # a directory or a hub, which need not be there when the model is saved
            remember(model, Creation(name, arguments, arguments.pop("pretrained", None)))
        return model

    return create_model


def _by_name(original: Function, *, family: str) -> Function:
    """A builder whose first argument is the model's name."""
    signature = inspect.signature(original)

    def build(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        (_, name), *others = signature.bind(*args, **kwargs).arguments.items()
        arguments = dict(others)
        for key, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(key, {})
        _note(model, str(name), arguments, family)
        return model

    return build


def _wrap_builders(patches: Patches, module: Any) -> None:
    """torchvision's functions that are called as its models are."""
    names = [name for name in module.list_models() if name in vars(module)]
    patches.wrap(module.__name__, {name: partial(_of_torchvision, name=name) for name in names})


def _of_torchvision(original: Function, *, name: str) -> Function:
    def build(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        if not args:  # they are to be given by name
            _note(model, name, kwargs, "torchvision")
        return model

    return build


def _note(model: Any, name: str, arguments: Mapping[str, Any], family: str) -> None:
    """Remember a call, where its arguments can be written down."""
    if isinstance(model, nn.Module) and _can_be_written(arguments):
        remember(model, Creation(name, dict(arguments), family=family))


def _of_own_class(original: Function) -> Function:
    """Notes what a class of the user's own was called with, where its `__init__` begins by calling that of `Module`."""

    def initialise(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        kind = type(self)
        if (library := _library(self)) or creation_of(self) is not None:
            if library == "transformers":
                _tell_of_transformers(self, _frame_of(kind.__init__, sys._getframe(1)))
            return
        if (name := name_of(kind)) is None:
            remember_why_not(self, "its class is not at the top of a module or a script.")
            return
        frame = _frame_of(kind.__init__, sys._getframe(1))
        try:
            arguments = {} if frame is None else _arguments(frame, name)
        except InputError as error:
            remember_why_not(self, str(error))
        else:
            remember(self, Creation(name, arguments, family="callable"))

    return initialise


def _tell_of_transformers(module: nn.Module, frame: FrameType | None) -> None:
    """Tell how a model of transformers is made, all of which is in its config."""
    home: Any = sys.modules.get("transformers.modeling_utils")
    config = None if frame is None else frame.f_locals.get("config")
    if home is None or config is None or not isinstance(module, home.PreTrainedModel):
        return
    with contextlib.suppress(InputError):  # a value of it cannot be written down, and the model is made all the same
        tell_of(module, Creation(type(module).__name__, {"config": data_of(config)}, family="transformers"))


def _frame_of(initialiser: Any, frame: FrameType | None) -> FrameType | None:
    """The call of an initialiser, up the stack as far as initialisers call each other."""
    code = getattr(initialiser, "__code__", None)
    while frame is not None and frame.f_code.co_name == "__init__":
        if frame.f_code is code:
            return frame
        frame = frame.f_back
    return None


def _arguments(frame: FrameType, factory: str) -> dict[str, Any]:
    """What a function was called with by name.

    Raises:
        InputError: That cannot be written down.
    """
    info = inspect.getargvalues(frame)
    given = {name: info.locals.get(name) for name in info.args[1:]}
    if info.varargs and info.locals.get(info.varargs):
        raise InputError(f"it was given *{info.varargs}, and only named arguments are written down.")
    given |= info.locals.get(info.keywords, {}) if info.keywords else {}
    for key, value in given.items():
        as_data(value, key, own=partial(own_name, factory))
    return given


def _can_be_written(arguments: Mapping[str, Any]) -> bool:
    try:
        as_data(dict(arguments), "arguments")
    except InputError:
        return False
    return True

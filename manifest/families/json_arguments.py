"""Arguments of model builders as JSON and back: tuples stay tuples, and classes of layers go by their names.

What JSON has is written as it is. The rest is an object with one key that begins with `$`: `{"$tuple": [7, 7]}`,
`{"$dtype": "bfloat16"}`, `{"$class": "torch.nn.modules.activation.GELU"}`, `{"$partial": …, "with": {…}}`,
`{"$float": "inf"}`. A record may come from anyone, so names lead to modules' classes of the model libraries, and to the
functions of `torch.nn.functional`, and nowhere else; but for classes, functions and objects of the user's own code
(`$own`, `$object`, `$enum`), which a caller finds where that was granted.
"""

from __future__ import annotations

import functools
import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path, PurePath
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import nn

from manifest.errors import ArchitectureError, InputError

_PACKAGES = ("torch.nn", "timm.layers", "timm.models", "torchvision.ops", "torchvision.models", "open_clip")
_FUNCTIONS = "torch.nn.functional"
_HOMES_OF_FUNCTIONS = (_FUNCTIONS, "torch._C._nn")
_DEEPEST = 30

_OWN = ("$own", "$object", "$enum")


class Written(dict[str, Any]):
    """Arguments that are written already, as `as_data` does it."""


Own = Callable[[Any], str | None]
Find = Callable[[str], Any]


def as_data(value: Any, name: str, *, own: Own | None = None) -> Any:
    """A value as JSON, from which `from_data` makes it again.

    Args:
        value: An argument, or a dict of them; dataclasses become dicts of their fields.
        name: What to call it in a message.
        own: Tells the name of a class or a function of the user's own, whose objects then stay such objects; None for
            others.

    Raises:
        InputError: It is of a kind that cannot be written down.
    """
    try:
        return _written(value, 0, own or _nobodys)
    except TypeError:
        raise InputError(
            f"Argument {name!r} is {value!r:.80}, which is no JSON value and cannot be recorded; "
            "use numbers, strings, lists and dicts, or classes of layers by name."
        ) from None


def from_data(data: Any, find: Find | None = None) -> Any:
    """The value of a record.

    Args:
        data: What `as_data` wrote.
        find: Finds a class or a function of the user's own by its name, where there may be such.

    Raises:
        ArchitectureError: It names something other than a layer of a model library.
    """
    if isinstance(data, list):
        return [from_data(item, find) for item in data]
    if not isinstance(data, dict):
        return data
    tag = next((key for key in data if key.startswith("$")), None)
    if tag is None:
        return {key: from_data(item, find) for key, item in data.items()}
    held = data[tag]
    try:
        if tag == "$tuple":
            return tuple(from_data(item, find) for item in held)
        if tag == "$items":
            return {from_data(key, find): from_data(item, find) for key, item in held}
        if tag == "$float":
            return float(held)
        if tag == "$dtype" and isinstance(dtype := getattr(torch, held), torch.dtype):
            return dtype
        if tag == "$class":
            return _named(held)
        if tag == "$partial":
            called = _named(held) if isinstance(held, str) else from_data(held, find)
            return functools.partial(called, **from_data(data.get("with", {}), find))
        if tag == "$path":
            return Path(held)
        if tag == "$device":
            return torch.device(held)
        if tag == "$namespace":
            return Namespace(**from_data(held, find))
        if tag == "$omegaconf":
            return import_module("omegaconf").OmegaConf.create(from_data(held, find))
        if tag == "$own" and find is not None:
            return find(held)
        if tag == "$enum" and find is not None and issubclass(kind := find(held), Enum):
            return kind[data["member"]]
        if tag == "$object" and find is not None:
            return _made(find(held), from_data(data.get("with", {}), find))
    except (TypeError, ValueError, LookupError, AttributeError, ImportError, RuntimeError):
        pass  # said below, for all of them
    raise ArchitectureError(
        f"The manifest has {data!r:.100} in a config, which is no layer or value of a model library; "
        "get it from a source you trust."
    )


def modules_named(data: Any) -> list[str]:
    """The modules of the user's own, beside the one of the factory, whose classes a record names."""
    found: dict[str, None] = {}
    waiting = [data]
    while waiting:
        each = waiting.pop()
        waiting += each.values() if isinstance(each, dict) else each if isinstance(each, list) else []
        for tag in _OWN:
            if isinstance(each, dict) and isinstance(name := each.get(tag), str) and ":" in name:
                found[name.partition(":")[0]] = None
    return list(found)


def _nobodys(kind: Any) -> None:
    del kind


def _made(kind: Any, attributes: Mapping[str, Any]) -> Any:
    made = kind.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(made, name, value)  # a frozen dataclass forbids its own way
    return made


def _attributes(value: Any) -> dict[str, Any]:
    """What an object of a user's own class holds.

    Raises:
        TypeError: That is in no dictionary.
    """
    if hasattr(value, "__dict__"):
        return dict(vars(value))
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError


def _written(value: Any, depth: int, own: Own) -> Any:
    if depth > _DEEPEST:
        raise TypeError
    if isinstance(value, Written):
        return dict(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Enum) and (name := own(type(value))) is not None:
        return {"$enum": name, "member": value.name}
    for plain in (int, float, str):  # subclasses, such as enumerations and numpy's
        if isinstance(value, plain):
            return plain(value.value if isinstance(value, Enum) else value)
    if isinstance(value, list):
        return [_written(item, depth + 1, own) for item in value]
    if isinstance(value, tuple):
        return {"$tuple": [_written(item, depth + 1, own) for item in value]}
    if type(value).__module__.partition(".")[0] == "omegaconf":
        plain_config = import_module("omegaconf").OmegaConf.to_container(value, resolve=True)
        return {"$omegaconf": _written(plain_config, depth + 1, own)}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _written(item, depth + 1, own) for key, item in value.items()}
        items = [[_written(each, depth + 1, own) for each in item] for item in value.items()]
        return {"$items": items}
    if type(value) in (Namespace, SimpleNamespace):
        return {"$namespace": _written(vars(value), depth + 1, own)}
    if isinstance(value, PurePath):
        return {"$path": value.as_posix()}
    if isinstance(value, torch.device):
        return {"$device": str(value)}
    if isinstance(value, type | FunctionType) and (name := own(value)) is not None:
        return {"$own": name}
    if not isinstance(value, type) and (name := own(type(value))) is not None:
        return {"$object": name, "with": _written(_attributes(value), depth + 1, own)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _written(getattr(value, field.name), depth + 1, own) for field in fields(value)}
    if isinstance(value, torch.dtype):
        return {"$dtype": str(value).removeprefix("torch.")}
    if isinstance(value, functools.partial) and not value.args:
        called = _name_of(value.func) if own(value.func) is None else _written(value.func, depth + 1, own)
        return {"$partial": called, "with": _written(value.keywords, depth + 1, own)}
    return {"$class": _name_of(value)}


def _name_of(value: Any) -> str:
    """The name by which `_named` finds a class or function again."""
    module, name = getattr(value, "__module__", ""), getattr(value, "__name__", "")
    name = f"{_FUNCTIONS if module in _HOMES_OF_FUNCTIONS else module}.{name}"
    try:
        if _named(name) is value:
            return name
    except (ValueError, AttributeError, ImportError):
        pass  # not found by its name, which is said below
    raise TypeError(f"{value!r} is no layer of a model library")


def _named(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    if not any(module == package or module.startswith(f"{package}.") for package in _PACKAGES):
        raise ValueError(name)
    found = getattr(import_module(module), attribute)
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    functions = FunctionType | BuiltinFunctionType
    if module == _FUNCTIONS and isinstance(found, functions) and found.__module__ in _HOMES_OF_FUNCTIONS:
        return found
    raise ValueError(name)

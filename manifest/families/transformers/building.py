"""From a Hugging Face config to a module, and from a module to its config as JSON; nothing is fetched on the way.

The class is looked up by its name among those of the installed transformers and nowhere else: code that a config names
(`auto_map`) is left out, and a config that would lead to a hub or to another file is refused, since a manifest may come
from anyone. Sizes are checked first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifest.errors import ArchitectureError, InputError, LibraryMissingError, UnknownModelError
from manifest.families.adapter import PRECISIONS, cast
from manifest.families.json_arguments import as_data, from_data
from manifest.families.limits import require_sane
from manifest.installing import what_is_missing

ATTENTION = "attn_implementation"
"""Attention by scaled_dot_product_attention or by plain products: the same formula, other arithmetic."""
_IMPLEMENTATIONS = {
    ATTENTION: ("eager", "sdpa", "flex_attention"),
    "experts_implementation": ("eager", "batched_mm", "grouped_mm"),
}
"""Those that need no kernels from a hub."""
_NOT_THE_MODEL = frozenset(
    {
        # Where it came from, on whose machine, and code that we never run.
        *("transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "architectures", "auto_map"),
        *("custom_pipelines", "_auto_class", "use_pretrained_backbone"),
        # The precision is recorded by itself.
        *("dtype", "torch_dtype"),
    }
)
_LEADS_ELSEWHERE = frozenset({"checkpoint_path", "trust_remote_code", "cache_dir", "quantization_config"})
_NAMES_OF_TIMM = frozenset({"backbone", "architecture"})
_MOST_LAYERS, _LARGEST_SIDE, _LONGEST, _LARGEST_OTHERWISE = 1 << 12, 1 << 13, 1 << 24, 1 << 21


def library() -> Any:
    """The package `transformers`.

    Raises:
        LibraryMissingError: It is not installed.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        missing = what_is_missing(error)
        if missing is None:
            raise
        raise LibraryMissingError(f"The family transformers {missing}.") from None
    return transformers


def model_class(name: str) -> Any:
    """The model class of a name.

    Raises:
        UnknownModelError: transformers has none; a class of the user's own is not looked for.
    """
    found: Any = getattr(library(), name, None) if name.isidentifier() else None
    known = isinstance(found, type) and issubclass(found, library().PreTrainedModel)
    if not known or found.config_class is None:
        raise UnknownModelError(
            f"transformers has no model class {name!r}; give the name of one, such as 'CLIPModel', or a directory with "
            "a config.json, and a class of your own by `family='callable'`."
        )
    return found


def data_of(config: Any) -> dict[str, Any]:
    """A config as JSON, defaults and all, with the implementations that were chosen; without paths and versions."""
    data = {
        str(key): _data(getattr(config, key, value), value)
        for key, value in config.to_dict().items()
        if key not in _NOT_THE_MODEL
    }
    for setting in _IMPLEMENTATIONS:
        if chosen := getattr(config, f"_{setting}", None):
            data[setting] = chosen
    return data


def config_of(kind: Any, data: Mapping[str, Any]) -> Any:
    """The config of a model class, out of a record.

    Raises:
        ArchitectureError: A size is beyond what any model has, or something would be fetched or read from elsewhere.
    """
    values = require_sound(data)
    config = kind.config_class.from_dict(_without(values, frozenset(_IMPLEMENTATIONS)))
    _choose(config, values)
    return config


def require_sound(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a recorded config, without what is not of the model.

    Raises:
        ArchitectureError: A size is beyond what any model has, or something would be fetched or read from elsewhere.
    """
    values: dict[str, Any] = _without(from_data(dict(data)))
    require_sane(values, _largest)
    for name, value in _settings(values):
        elsewhere = name in _NAMES_OF_TIMM and isinstance(value, str) and not value.replace(".", "_").isidentifier()
        if elsewhere or (name in _LEADS_ELSEWHERE and value):
            raise ArchitectureError(
                f"The config has {name}={value!r:.60}, which leads to a hub or another file, expected a config that is "
                "whole in itself; leave it out."
            )
        if name in _IMPLEMENTATIONS and value is not None and value not in _IMPLEMENTATIONS[name]:
            known = _IMPLEMENTATIONS[name]
            raise ArchitectureError(
                f"The config has {name}={value!r:.60}, expected one of {', '.join(known)}, for which nothing is "
                f"fetched; choose one by `model.set_{name}({known[0]!r})`."
            )
    return values


def build(class_name: str, data: Mapping[str, Any], precision: str) -> nn.Module:
    """A model of a class; its precision is `bf16` as transformers loads it, or `pure_bf16` as `model.to` makes it.

    Raises:
        ArchitectureError: There is no such class or precision, or the config is refused.
    """
    kind = model_class(class_name)
    config = config_of(kind, data)
    if precision.startswith("pure_"):
        built: nn.Module = kind(config)
        return cast(built, precision.removeprefix("pure_"))
    if precision not in PRECISIONS:
        raise ArchitectureError(
            f"transformers has no precision {precision!r}, expected one of {', '.join(PRECISIONS)}."
        )
    before = torch.get_default_dtype()
    torch.set_default_dtype(PRECISIONS[precision])
    try:
        built = kind(config)
    finally:
        torch.set_default_dtype(before)
    return built


def stored_names(module: nn.Module) -> dict[str, str]:
    """Names that `save_pretrained` gives to tensors: since version 5, transformers renames those of older files.

    Returns:
        Name in the file → name in the module, where they differ. None where tensors are merged or split as well: such
        a file does not hold the tensors of the module.
    """
    own = {name: torch.empty(0) for name in module.state_dict()}
    names = {id(tensor): name for name, tensor in own.items()}
    try:
        from transformers.core_model_loading import revert_weight_conversion

        stored = revert_weight_conversion(module, dict(own))
    except Exception:  # a version without it, or it does to tensors what it cannot do to empty ones
        return {}
    if any(id(tensor) not in names for tensor in stored.values()):
        return {}
    return {name: names[id(tensor)] for name, tensor in stored.items() if names[id(tensor)] != name}


def directory_config(directory: Path) -> tuple[str | None, dict[str, Any]]:
    """The model class that a directory's `config.json` names, if it does, and its content.

    Raises:
        InputError: There is none, or it is not JSON.
    """
    path = directory / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        classes = content.get("architectures") or [None]
        return classes[0], content
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise InputError(f"{path} is no config of transformers ({error}); give another directory.") from None


def _data(value: Any, written: Any) -> Any:
    """A value of a config: `written` is the same as `to_dict` gives it, tuples as lists and configs as dicts."""
    if hasattr(value, "to_dict") and isinstance(written, Mapping):
        return data_of(value)
    if isinstance(written, Mapping):
        return {str(key): _data(item, item) for key, item in written.items()}
    if isinstance(written, list) and not isinstance(value, tuple):
        return [_data(item, item) for item in written]
    return as_data(value if isinstance(value, tuple) else written, "config")


def _without(values: Any, left_out: frozenset[str] = _NOT_THE_MODEL) -> Any:
    if isinstance(values, dict):
        return {key: _without(item, left_out) for key, item in values.items() if key not in left_out}
    return [_without(item, left_out) for item in values] if isinstance(values, list) else values


def _choose(config: Any, values: Mapping[str, Any]) -> None:
    """Set the recorded implementations, of a config and then of those inside it."""
    for setting in _IMPLEMENTATIONS:
        if (chosen := values.get(setting)) is not None:
            setattr(config, f"_{setting}", chosen)
    for name, inner in values.items():
        if isinstance(inner, Mapping) and hasattr(getattr(config, name, None), "to_dict"):
            _choose(getattr(config, name), inner)


def _settings(values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield name, value
            yield from _settings(value)
    elif isinstance(values, list | tuple):
        for item in values:
            yield from _settings(item)


def _largest(name: str) -> float:
    """How large a number of a config may be, by the words of its name."""
    words = set(name.split("_"))
    if words & {"theta", "freq", "eps", "value", "limit"}:
        return math.inf  # no size
    if words & {"layers", "layer", "depth", "depths", "blocks", "stages", "experts", "heads"}:
        return _MOST_LAYERS
    if name in {"image_size", "patch_size"}:
        return _LARGEST_SIDE
    return _LONGEST if words & {"max", "position", "positions", "length"} else _LARGEST_OTHERWISE

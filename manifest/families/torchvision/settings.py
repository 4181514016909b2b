"""Settings of torchvision's modules that are read when a model runs: thresholds, sizes of images and anchors, rates.

They can be set after construction, and often are; so they are read off a module, and put on another, as they are. What
a constructor turns into modules, shapes or tables is no setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator

from manifest.errors import ArchitectureError
from manifest.fingerprints.structure import hyperparameters

_HOMES = (
    *("torchvision.models.detection.", "torchvision.ops.misc", "torchvision.ops.stochastic_depth"),
    *("torch.nn.modules.batchnorm", "torch.nn.modules.normalization", "torch.nn.modules.dropout"),
)
"""Where the classes are defined whose attributes are read when they run."""
READ_ANYWHERE = frozenset({"transform_input"})
"""Settings of whole models, which their constructors take under the same names."""
_SHAPES = frozenset({"num_features", "normalized_shape", "num_channels", "num_groups", "num_classes", "num_columns"})
"""Attributes that tell of the shapes of weights, and change nothing when they are set."""


def settings_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Every setting of a module: path → name → value; a dot in a name leads into an object that the module holds."""
    found = {path: dict(_settings(child)) for path, child in module.named_modules()}
    return {path: settings for path, settings in found.items() if settings}


def departures(live: nn.Module, built: nn.Module) -> dict[str, dict[str, Any]]:
    """The settings of a live module that one built otherwise has, and has otherwise."""
    mine, yours = settings_of(live), settings_of(built)
    found = {
        path: {name: value for name, value in values.items() if name in yours[path] and yours[path][name] != value}
        for path, values in mine.items()
        if path in yours
    }
    return {path: values for path, values in found.items() if values}


def adjust(module: nn.Module, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Put settings on a module.

    Raises:
        ArchitectureError: It has no such setting; a record may come from anyone.
    """
    modules = dict(module.named_modules())
    for path, values in settings.items():
        for name, value in values.items():
            if path not in modules or name not in dict(_settings(modules[path])):
                raise ArchitectureError(
                    f"The config sets {name!r:.60} of {path or 'the model'!r:.60}, which has no such setting; "
                    "get the manifest from a source you trust."
                )
            *objects, last = name.split(".")
            holder: Any = modules[path]
            for each in objects:
                holder = getattr(holder, each)
            setattr(holder, last, value)
        _derive(modules[path])


def _derive(module: Any) -> None:
    """Compute anew what a generator of anchors computes from its settings when it is made."""
    if isinstance(module, AnchorGenerator):
        pairs = zip(module.sizes, module.aspect_ratios, strict=True)
        module.cell_anchors = [module.generate_anchors(sizes, ratios) for sizes, ratios in pairs]
    elif isinstance(module, DefaultBoxGenerator):
        module._wh_pairs = module._generate_wh_pairs(len(module.aspect_ratios))


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    known = type(module).__module__.startswith(_HOMES)
    for name, value in hyperparameters(module).items():
        if name in _SHAPES or not (known or name in READ_ANYWHERE):
            continue
        if _is_data(value):
            yield name, value
        elif type(value).__module__.startswith("torchvision.models.detection.") and hasattr(value, "__dict__"):
            held = {inner: item for inner, item in vars(value).items() if inner[0] != "_" and _is_data(item)}
            yield from ((f"{name}.{inner}", item) for inner, item in held.items())


def _is_data(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_data(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_data(item) for key, item in value.items())
    return value is None or isinstance(value, bool | int | float | str)

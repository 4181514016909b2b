"""A live model that is not the recorded one at all: of another library, of another size, a part of it, with adapters.

Its outputs are not comparable, so that there is one thing to say: what was recorded, what this is, and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from manifest.checks.live_weights import LiveWeights
from manifest.errors import ArchitectureError
from manifest.escaping import printable
from manifest.families import creation_of, family, family_of
from manifest.families.protocol import Difference
from manifest.identification.adapters import has_adapters
from manifest.schema.document import Architecture, Manifest, TensorRecord
from manifest.schema.report import CANNOT_TELL, Finding
from manifest.schema.rules import finding

_SHOWN = 3


def another_model(module: nn.Module, weights: LiveWeights, manifest: Manifest) -> Finding | None:
    """What is said of a live model whose weights have other names or shapes than the recorded; None where they fit.

    Args:
        module: The model, without wrappers.
        weights: How its weights stand to those on record.
        manifest: The record.
    """
    if not weights.reshaped and not weights.missing:
        return None
    recorded, state = manifest.architecture, module.state_dict()
    words = f"The record is of {printable(recorded.name or recorded.class_name)} of {printable(recorded.family)}"
    if has_adapters(state):
        message = f"{words}, and this model has adapters around it that are not merged into its weights."
        remedy = "Merge them, `model = model.merge_and_unload()`, and compare what comes of it."
        return finding("G001", message, where="golden", remedy=remedy)
    library = _library(module)
    place = _place_in(state, manifest.weights.tensors) if library in (None, recorded.family) else None
    if place is not None:
        message = f"{words}, and this is a part of it, `model.{printable(place)}`."
        return finding("G001", message, where="golden", remedy="Pass the whole model.")
    if library != recorded.family:
        kind = printable(f"{type(module).__module__.partition('.')[0]}.{type(module).__name__}")
        message = f"{words}, and this is {kind}, which takes other inputs and gives other outputs."
        remedy = "Compare it with a checkpoint of its own kind, or build the recorded one: `manifest.load(CKPT)`."
        return finding(CANNOT_TELL, message, where="golden", remedy=remedy)
    if not weights.reshaped and len(weights.missing) < len(manifest.weights.tensors) / 2:
        return None  # some weights are not there, which is said of each, and the model can be asked
    differences = _differences(module, recorded)
    message = f"{words}, and this model is another: {_how(state, weights, differences)}."
    arguments = ", ".join(each.cure for each in differences if each.cure.startswith("force_"))
    remedy = f"Make it as recorded{f', with {arguments}' if arguments else ''}: `manifest.load(CKPT)`."
    return finding("G001", message, where="golden", remedy=remedy)


def _place_in(state: Mapping[str, torch.Tensor], recorded: Sequence[TensorRecord]) -> str | None:
    """Where in the recorded model a module with these weights stands; None where it is no part of it."""
    if not state:
        return None
    shapes = {record.name: record.shape for record in recorded}
    first = next(iter(state))
    places = sorted(name.removesuffix(f".{first}") for name in shapes if name.endswith(f".{first}"))
    fits = (all(shapes.get(f"{place}.{name}") == list(state[name].shape) for name in state) for place in places)
    return next((place for place, fit in zip(places, fits, strict=True) if fit), None)


def _library(module: nn.Module) -> str | None:
    try:
        return family_of(module).name
    except ArchitectureError:
        return None


def _how(state: Mapping[str, torch.Tensor], weights: LiveWeights, differences: Sequence[Difference]) -> str:
    parts = [printable(each.of_live_model, 300) for each in differences]
    if weights.reshaped and not parts:
        parts = [f"{printable(name)} is {list(state[name].shape)}" for name in weights.reshaped[:_SHOWN]]
    counts = [f"{len(weights.reshaped)} of its weights have other shapes"] if weights.reshaped else []
    counts += [f"{len(weights.missing)} of the recorded are not there"] if weights.missing else []
    return "; ".join([*parts, " and ".join(counts)])


def _differences(module: nn.Module, recorded: Architecture) -> list[Difference]:
    """In what the model differs, in its library's own words, those with an argument alone where there are any.

    Nothing where that cannot be read off it.
    """
    try:
        adapter = family(recorded.family)
        live = adapter.capture(module, creation_of(module)).architecture
    except ArchitectureError:
        return []
    found = [each for each in adapter.differences(live, recorded) if each.rule == "A002"]
    return [each for each in found if each.cure.startswith("force_")] or found

"""Which builder of torchvision a live module comes from, and with which arguments: no module says so itself.

The builders that make its class are tried, those first whose models are most like it. What shapes show (classes,
keypoints, auxiliary heads) becomes arguments; what only shows in settings is set afterwards.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torchvision
from torch import nn
from torchvision.models import get_model_builder

from manifest.families.adapter import Draft, precision_of, width_of
from manifest.families.meta_build import without_weights
from manifest.families.torchvision.building import accepts, build, default_weights, draft
from manifest.families.torchvision.settings import departures
from manifest.fingerprints.module_tree import Part, changes
from manifest.fingerprints.structure import structure

_MOST_BUILDERS = 4
_COUNTS_OF_CLASSES = (
    ("roi_heads.box_predictor.cls_score", "out_features"),
    ("head.classification_head", "num_classes"),
    ("head.classification_head", "num_columns"),
)
"""Where detectors say how many classes they tell apart: module, attribute."""


def recover(module: nn.Module) -> Iterator[Draft]:
    """Drafts of a module of torchvision, the likeliest first."""
    precision = precision_of(module)
    parts = structure(module)
    names = [name for name in torchvision.models.list_models() if _made_by(name) is type(module)]
    distances = {name: len(changes(_default_parts(name), parts)) for name in names}
    for name in sorted(names, key=distances.__getitem__)[:_MOST_BUILDERS]:
        weights = default_weights(name)
        told = ({}, *({parameter: weights[parameter]} for parameter in weights))
        drafts = [draft for each in told if (draft := _draft(name, each, module, precision)) is not None]
        yield from sorted(drafts, key=lambda draft: len(draft.config.get("settings", ())))


def _draft(name: str, told: Mapping[str, str], live: nn.Module, precision: str) -> Draft | None:
    """What one builder, told of some weights, would have to be given; None where it cannot be what made the module."""
    try:
        with without_weights():
            shown = _shown(name, live, build(name, {}, told))
            if "weights" in told:
                shown.pop("num_classes", None)  # a builder that is told of weights has as many classes as they do
            built = build(name, shown, told)
    except (ValueError, TypeError, RuntimeError, AttributeError):  # what was read is beyond what the builder can build
        return None
    return draft(name, shown, told, departures(live, built), precision=precision)


def _made_by(name: str) -> Any:
    return inspect.signature(get_model_builder(name)).return_annotation


@cache
def _default_parts(name: str) -> tuple[Part, ...]:
    with without_weights():
        return tuple(structure(build(name, {}, {})))


def _shown(name: str, live: nn.Module, default: nn.Module) -> dict[str, Any]:
    """Arguments that the shapes and modules of a live model show, where they are not the defaults."""
    found: dict[str, Any] = {}
    mine, yours = dict(live.named_modules()), dict(default.named_modules())
    if (classes := _classes(mine, yours)) is not None:
        found["num_classes"] = classes
    keypoints = "roi_heads.keypoint_predictor.kps_score_lowres"
    if keypoints in mine and mine[keypoints].out_channels != yours[keypoints].out_channels:
        found["num_keypoints"] = mine[keypoints].out_channels
    if accepts(name, "aux_loss") and ("aux_classifier" in mine) != ("aux_classifier" in yours):
        found["aux_loss"] = "aux_classifier" in mine
    for attribute in ("aux_logits", "image_size"):
        now, then = getattr(live, attribute, None), getattr(default, attribute, None)
        if now != then:
            found[attribute] = now
    return found


def _classes(mine: Mapping[str, Any], yours: Mapping[str, Any]) -> int | None:
    """How many classes a live model tells apart, None when as many as by default."""
    for path, attribute in _COUNTS_OF_CLASSES:
        if path in mine and path in yours and isinstance(count := getattr(mine[path], attribute, None), int):
            return None if count == getattr(yours[path], attribute, None) else count
    widths = [
        (width_of(module), width_of(yours[path])) for path, module in mine.items() if path in yours and width_of(module)
    ]
    different = [now for now, then in widths if now != then]
    return different[-1] if different else None

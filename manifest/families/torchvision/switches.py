"""Settings that a builder of torchvision switches by the weights that it is asked for, and that no tensor tells.

`inception_v3(weights=…)` transforms its input, and `inception_v3()` does not: whoever loads the same weights into the
latter gets other answers, and no error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial
from inspect import signature
from typing import Any

from torch import nn
from torchvision.models import get_model_builder

from manifest.families.meta_build import without_weights
from manifest.families.protocol import Variant
from manifest.families.torchvision.building import build, default_weights
from manifest.families.torchvision.settings import READ_ANYWHERE, adjust, departures, settings_of


@cache
def switched_by_weights(name: str) -> Mapping[str, Any]:
    """Settings of a builder's model that it has only with weights of its own: name → the value with them."""
    kinds = signature(get_model_builder(name)).return_annotation.__mro__
    taken = {parameter for kind in kinds if issubclass(kind, nn.Module) for parameter in signature(kind).parameters}
    weights = default_weights(name).get("weights")
    if weights is None or READ_ANYWHERE.isdisjoint(taken):
        return {}
    with without_weights():
        return departures(build(name, {}, {"weights": weights}), build(name, {}, {})).get("", {})


def switched(name: str, module: nn.Module) -> Iterator[Variant]:
    """A model with each of these settings as its builder has it in the other case.

    Args:
        name: Of the builder.
        module: The model itself, of any weights.
    """
    own = settings_of(module).get("", {})
    for setting, value in switched_by_weights(name).items():
        now = own[setting]
        if isinstance(now, bool) and isinstance(value, bool):
            yield Variant(
                "setting",
                here=f"{setting}={now}",
                there=f"{setting}={not now}",
                cure=f"{name}({setting}={not now})",
                back=f"{name}({setting}={now}), or `model.{setting} = {now}`",
                alter=partial(adjust, settings={"": {setting: not now}}),
                undo=partial(adjust, settings={"": {setting: now}}),
            )

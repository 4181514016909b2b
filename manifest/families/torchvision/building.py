"""From a torchvision creation call to a draft, and from a draft to a module, without fetching weights.

A builder of torchvision decides by its weights what the model is: the class of a backbone's norms and their eps, which
layers are frozen, how many classes there are, whether inputs are transformed. So it is told of weights (`as_if`) and
given none. A config names weights only where that makes a difference, and claims nothing of where weights come from.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import torchvision
from torch import nn
from torchvision.models import WeightsEnum, get_model_builder

from manifest.errors import ArchitectureError, InputError
from manifest.families.adapter import Draft, cast, frozen
from manifest.families.equivalence import first_difference
from manifest.families.json_arguments import as_data, from_data
from manifest.families.limits import require_sane
from manifest.families.meta_build import without_weights
from manifest.families.protocol import Creation
from manifest.families.suggestions import unknown_model
from manifest.families.torchvision.settings import adjust

WEIGHTS = ("weights", "weights_backbone")
_LEGACY = ("pretrained", "pretrained_backbone")
_PARTS = ("name", "arguments", "as_if", "settings")
"""What a config is made of."""
_WITHOUT_EFFECT = frozenset({"progress"})
_REPLACED = threading.Lock()


def resolve(creation: Creation) -> Draft:
    """What `torchvision.models.get_model` would construct for a call.

    Raises:
        UnknownModelError: No such model; the message has the nearest names.
    """
    name = creation.name.lower()
    if name not in (known := torchvision.models.list_models()):
        raise unknown_model("torchvision.models", creation.name, name, known)
    own = {*WEIGHTS, *_LEGACY, "progress", "precision"}
    arguments = {key: value for key, value in creation.arguments.items() if key not in own}
    weights = weights_of(creation)
    told = {parameter: str(member) for parameter, member in weights.items()}
    asked = {key: told.get(key) for key in WEIGHTS if key in creation.arguments} | (told if "weights" in told else {})
    chosen, as_if = _simplest(name, arguments, told, weights.get("weights"))
    precision = str(creation.arguments.get("precision", "fp32"))
    return draft(name, chosen, as_if, asked=as_data({**arguments, **asked}, "arguments"), precision=precision)


def draft(
    name: str,
    arguments: Mapping[str, Any],
    as_if: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
    *,
    asked: Mapping[str, Any] | None = None,
    precision: str = "fp32",
) -> Draft:
    """The draft of a builder's model.

    Args:
        name: Of the builder.
        arguments: Its arguments, without weights.
        as_if: Names of the weights that it is told of.
        settings: What is set afterwards: path of a module → name → value.
        asked: The call's own arguments.
        precision: Name of the element type.
    """
    config = {"name": name, "arguments": as_data(dict(arguments), "arguments")}
    if as_if:
        config["as_if"] = dict(as_if)
    if settings:
        config["settings"] = as_data(dict(settings), "settings")
    return Draft(name, "", config, dict(asked or {}), precision)


def construct(draft: Draft) -> nn.Module:
    """The module of a draft.

    Raises:
        ArchitectureError: A size is beyond what any model has, or there is no such setting.
    """
    require_sane(draft.config)
    if unknown := sorted(draft.config.keys() - _PARTS):
        raise ArchitectureError(
            f"The config of {draft.name} has {unknown[0]!r:.60}, expected only {', '.join(_PARTS)}; "
            "get the manifest from a source you trust, or a version of this program that knows it."
        )
    config = from_data(draft.config)
    module = build(config["name"], config.get("arguments", {}), config.get("as_if", {}))
    adjust(module, config.get("settings", {}))
    return cast(module, draft.precision)


def build(name: str, arguments: Mapping[str, Any], as_if: Mapping[str, str]) -> nn.Module:
    """What a builder makes that is told of weights and given none."""
    builder = get_model_builder(name)
    none = dict.fromkeys(parameter for parameter in WEIGHTS if parameter in inspect.signature(builder).parameters)
    with _without_downloads(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments that have no effect without weights, and of slow initialisers
        module: nn.Module = builder(**{**none, **arguments, **as_if})
    return module


def weights_of(creation: Creation) -> dict[str, WeightsEnum]:
    """The weights that a call starts from, by the builder's parameter: named, or its default.

    Raises:
        InputError: There are no weights of such a name.
    """
    parameters = inspect.signature(get_model_builder(creation.name)).parameters
    given = dict(creation.arguments)
    kinds = _kinds(creation.name, quantized=bool(given.get("quantize")))
    for legacy, parameter in zip(_LEGACY, WEIGHTS, strict=True):
        if given.get(legacy) and parameter in kinds:
            given.setdefault(parameter, _first(kinds[parameter]))
        elif legacy in given:
            given.setdefault(parameter, None)
    if creation.pretrained and given.get("weights") is None:
        name = creation.pretrained.rpartition(".")[2]
        given |= {"weights": name} if name in kinds["weights"].__members__ else {}
    found = {}
    for parameter, kind in kinds.items():
        if (named := given.get(parameter, parameters[parameter].default)) is not None:
            try:
                found[parameter] = kind.verify(named)
            except (KeyError, TypeError):
                known = ", ".join(kind.__members__)
                raise InputError(
                    f"{creation.name} has no {parameter} {str(named)!r:.80}, expected one of {known}; correct it."
                ) from None
    if "weights" in found:
        found.pop("weights_backbone", None)  # which builders ignore then
    return found


def accepts(name: str, argument: str) -> bool:
    """Whether a builder has a parameter of its own."""
    return argument in inspect.signature(get_model_builder(name)).parameters


def default_weights(name: str) -> dict[str, str]:
    """The first weights that there are for each of a builder's parameters: what they are called makes no difference."""
    kinds = _kinds(name, quantized=False)
    return {parameter: str(_first(kind)) for parameter, kind in kinds.items() if kind.__members__}


def _first(kind: type[WeightsEnum]) -> WeightsEnum:
    members: dict[str, WeightsEnum] = dict(kind.__members__)
    return next(iter(members.values()))


def _kinds(name: str, *, quantized: bool) -> dict[str, type[WeightsEnum]]:
    """The enumeration of weights that each of a builder's parameters takes; those of quantised weights come first."""
    parameters = inspect.signature(get_model_builder(name)).parameters
    kinds = {}
    for parameter in WEIGHTS:
        if parameter in parameters:
            union = (parameters[parameter].annotation, *get_args(parameters[parameter].annotation))
            found = [kind for kind in union if isinstance(kind, type) and issubclass(kind, WeightsEnum)]
            kinds[parameter] = found[0] if quantized else found[-1]
    return kinds


def _simplest(
    name: str, arguments: Mapping[str, Any], told: Mapping[str, str], weights: WeightsEnum | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments and weights to tell of that give the same model, without weights where these decide nothing."""
    plain = dict(arguments)
    if not told:
        return plain, {}
    with without_weights():
        meant = build(name, plain, told)
    classes = len(weights.meta.get("categories", ())) if weights is not None else 0
    for candidate in (plain, {**plain, "num_classes": classes} if classes else plain):
        with without_weights():
            built = build(name, candidate, {})
        if first_difference(built, meant) is None and frozen(built) == frozen(meant):
            return candidate, {}
    return plain, dict(told)


class _NoWeights(dict[str, Any]):
    """Stands for weights that are not fetched; loading it changes nothing."""


@contextmanager
def _without_downloads() -> Iterator[None]:
    """Inside, and in this thread, weights of torchvision are empty, and loading them changes nothing."""
    owner = threading.get_ident()
    weights: Any = WeightsEnum
    module: Any = nn.Module
    fetch, load = weights.get_state_dict, module.load_state_dict

    def fetch_nothing(self: WeightsEnum, *args: Any, **kwargs: Any) -> Any:
        return _NoWeights() if threading.get_ident() == owner else fetch(self, *args, **kwargs)

    def load_unless_nothing(self: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        return None if isinstance(state_dict, _NoWeights) else load(self, state_dict, *args, **kwargs)

    with _REPLACED:
        weights.get_state_dict, module.load_state_dict = fetch_nothing, load_unless_nothing
        try:
            yield
        finally:
            weights.get_state_dict, module.load_state_dict = fetch, load

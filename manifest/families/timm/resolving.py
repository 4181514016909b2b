"""From a call of `timm.create_model` to a draft, following its steps in version 1.0.31."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, is_model, parse_model_name

from manifest.errors import ArchitectureError, UnknownModelError
from manifest.families.adapter import PRECISIONS, Draft
from manifest.families.json_arguments import as_data
from manifest.families.protocol import Creation
from manifest.families.suggestions import nearest_names, unknown_model
from manifest.families.timm.naming import cfg_of, shortest, substance
from manifest.identification.pretrained import split_timm_name

WHERE_NOT_WHAT = frozenset(
    {"pretrained", "checkpoint_path", "cache_dir", "device", "pretrained_model_args", "dtype", "precision"}
)
"""Arguments that say where weights come from or go, and the type of the weights, which is recorded by itself."""


def resolve(creation: Creation) -> Draft:
    """What `timm.create_model` would construct for a call.

    Raises:
        UnknownModelError: No such model; the message has the nearest names.
    """
    given = {name: value for name, value in creation.arguments.items() if value is not None}
    arguments = {name: value for name, value in given.items() if name not in WHERE_NOT_WHAT}
    cfg: Any = arguments.pop("pretrained_cfg", None)
    overlay: Mapping[str, Any] = arguments.pop("pretrained_cfg_overlay", None) or {}
    source = _source(creation.name)
    if source is not None:
        cfg, architecture, saved = _saved_config(*source)
        arguments = {**(saved or {}), **arguments}
        tag = ""
    else:
        architecture, tag = split_timm_name(creation.name)
    if not is_model(architecture):
        raise unknown_model("timm", creation.name, architecture, timm.list_models())
    if isinstance(cfg, str):
        cfg, tag = None, str(cfg)
    elif not tag and creation.pretrained and cfg_of(f"{architecture}.{creation.pretrained}") is not None:
        tag = creation.pretrained
    if tag and cfg is None and cfg_of(f"{architecture}.{tag}") is None:
        raise UnknownModelError(_unknown_tag(architecture, tag))
    name = shortest(architecture, tag)
    return draft(name, arguments, {**departures(name, cfg), **substance(overlay)}, _precision(given), source is None)


def draft(
    name: str,
    arguments: Mapping[str, Any],
    overlay: Mapping[str, Any],
    precision: str,
    asked: bool = True,
    afterwards: Mapping[str, Any] | None = None,
) -> Draft:
    """The draft of some keywords of `timm.create_model`.

    Args:
        name: Registered architecture, with the tag where it matters.
        arguments: Everything else that its builder takes.
        overlay: In what its `pretrained_cfg` departs from the registry's.
        precision: Name of its element type.
        asked: Whether the keywords are those of the call, which then go on record as such.
        afterwards: What was done to the module once it was made; see `change`.
    """
    written = as_data(dict(arguments), "arguments")
    config = {"model_name": name, **written}
    if overlay:
        config["pretrained_cfg_overlay"] = as_data(dict(overlay), "pretrained_cfg_overlay")
    if afterwards:
        config["afterwards"] = as_data(dict(afterwards), "afterwards")
    return Draft(name, "", config, written if asked else {}, precision)


def change(module: Any, afterwards: Mapping[str, Any]) -> None:
    """Do to a module what was done to another after it was made.

    Args:
        module: Of timm.
        afterwards: `img_size`: its new input size; `num_classes`: what the module says of its classes, where its head
            was replaced by hand and has others.
    """
    if "img_size" in afterwards:
        module.set_input_size(img_size=afterwards["img_size"])
    if "num_classes" in afterwards:
        module.num_classes = int(afterwards["num_classes"])


def departures(name: str, cfg: Any) -> dict[str, Any]:
    """In what a `pretrained_cfg` departs from the registry's entry of a name."""
    if cfg is None:
        return {}
    full = cfg.to_dict() if isinstance(cfg, PretrainedCfg) else PretrainedCfg(**cfg).to_dict()
    registered = substance(cfg_of(name) or {})
    return {key: value for key, value in substance(full).items() if key not in registered or registered[key] != value}


def _source(name: str) -> tuple[str, str] | None:
    """Scheme and identifier of a model that is not in the registry."""
    try:
        source, identifier = parse_model_name(name)
    except (AssertionError, ValueError) as error:
        raise UnknownModelError(f"timm takes no model name {name!r} ({' '.join(str(error).split())}).") from None
    return (source, identifier) if source and source != "timm" else None


def _saved_config(source: str, identifier: str) -> tuple[Any, str, Mapping[str, Any] | None]:
    """Entry, architecture and arguments that a repository or directory keeps in its `config.json`."""
    from timm.models import _hub

    if source == "local-dir":
        if not (Path(identifier) / "config.json").is_file():
            raise ArchitectureError(
                f"There is no config.json in {Path(identifier).name!r}, expected one as timm saves it; check the path."
            )
        cfg, architecture, arguments = _hub.load_model_config_from_path(identifier)
    else:
        cfg, architecture, arguments = _hub.load_model_config_from_hf(identifier)
    return cfg, architecture, arguments


def _unknown_tag(architecture: str, tag: str) -> str:
    tags = [split_timm_name(name)[1] for name in timm.list_models(f"{architecture}.*", include_tags=True)]
    nearest = nearest_names(tag, tags) or tags[:3]
    hint = f"did you mean {' or '.join(nearest)}" if nearest else "it has none"
    return f"timm has no weights {tag!r} of {architecture}; {hint}?"


def _precision(arguments: Mapping[str, Any]) -> str:
    if "precision" in arguments:  # no argument of timm's, and how `manifest create` asks
        return str(arguments["precision"])
    dtype = arguments.get("dtype", torch.float32)
    names = [name for name, known in PRECISIONS.items() if known == dtype]
    if not names:
        raise ArchitectureError(
            f"timm models of {dtype!r:.40} cannot be recorded, expected one of {', '.join(map(str, PRECISIONS))}."
        )
    return names[0]

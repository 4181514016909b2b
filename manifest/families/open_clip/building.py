"""From an open_clip creation call to a draft, and from a draft to a module.

`resolve` follows the steps of `open_clip.create_model` 3.3 in their order, up to the point where it would construct the
model; `construct` does that. Sizes are checked first, since a record may come from anyone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
from open_clip import factory
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP, get_cast_dtype
from torch import nn

from manifest.errors import ArchitectureError
from manifest.families.adapter import Draft
from manifest.families.json_arguments import as_data, from_data
from manifest.families.limits import require_sane
from manifest.families.open_clip.hugging_face import in_place
from manifest.families.protocol import Creation
from manifest.families.suggestions import unknown_model

CLASSES: dict[str, type[nn.Module]] = {
    "CLIP": CLIP,
    "CustomTextCLIP": CustomTextCLIP,
    "CoCa": open_clip.CoCa,
}
PRECISIONS = ("fp32", "fp16", "bf16", "pure_fp16", "pure_bf16", "amp", "amp_bf16", "amp_bfloat16")
"""open_clip builds float32 for any other name, without a word."""
_WHERE_NOT_WHAT = frozenset({"pretrained", "device", "cache_dir", "load_weights", "jit", "require_pretrained"})
"""Arguments of `create_model` that say where weights come from or go, not what the model is."""
_PATHS = frozenset({"pretrained_image_path", "pretrained_text_path"})


def resolve(creation: Creation) -> Draft:
    """What `open_clip.create_model` would construct for a call.

    Raises:
        UnknownModelError: No such model; the message has the nearest names.
    """
    arguments = dict(creation.arguments)
    schema, identifier = factory.parse_model_name(creation.name)
    # A directory's place is of this machine only.
    name = {None: identifier.replace("/", "-"), "local-dir": f"local-dir:{Path(identifier).name}"}.get(
        schema, creation.name
    )
    config = open_clip.get_model_config(name if schema is None else creation.name)
    if config is None:
        raise unknown_model("open_clip", creation.name, name, open_clip.list_models())
    config = deepcopy(config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    if arguments.get("force_quick_gelu"):
        config["quick_gelu"] = True
    if arguments.get("force_patch_dropout") is not None:
        vision["patch_dropout"] = arguments["force_patch_dropout"]
    if arguments.get("force_image_size") is not None:
        vision["image_size"] = arguments["force_image_size"]
    if arguments.get("force_context_length") is not None:
        text["context_length"] = arguments["force_context_length"]
    # No builder may fetch weights: they come from the checkpoint.
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or arguments.get("force_custom_text") or "hf_model_name" in text
    class_name = "CLIP" if not custom else "CoCa" if "multimodal_cfg" in config else "CustomTextCLIP"
    own = set(creation_signature())
    config.update({key: value for key, value in arguments.items() if key not in own and key != "pretrained_hf"})
    if class_name != "CoCa" and arguments.get("output_dict"):
        config["output_dict"] = True
    precision = arguments.get("precision")
    precision = precision if precision in PRECISIONS else "fp32"
    return Draft(name, class_name, as_data(config, "config"), _recorded(arguments), precision)


def construct(draft: Draft) -> nn.Module:
    """The module of a draft.

    Raises:
        ArchitectureError: A size is beyond what any model has.
    """
    config = from_data(draft.config)
    require_sane(config)
    if draft.precision not in PRECISIONS:  # which open_clip would take for float32
        raise ArchitectureError(
            f"open_clip has no precision {draft.precision!r:.80}, expected one of {', '.join(PRECISIONS)}; "
            "get the manifest from a source you trust."
        )
    timm = "timm_model_name" in config["vision_cfg"]
    if ":" in (name := str(config["vision_cfg"].get("timm_model_name"))):
        raise ArchitectureError(
            f"The config has the vision tower {name!r:.80}, which leads to a hub or another file, expected a name that "
            "timm knows; get the manifest from a source you trust."
        )
    size = from_data(draft.arguments.get("force_image_size"))
    with in_place(config) as built_from:
        module = CLASSES[draft.class_name](**built_from, cast_dtype=get_cast_dtype(draft.precision))
    text: Any = getattr(module, "text", None)
    if isinstance(text, HFTextEncoder):
        text.config.name_or_path = config["text_cfg"]["hf_model_name"]
    factory._set_model_device_and_precision(module, None, draft.precision, timm)
    if timm and size is not None:
        module.visual.set_input_size(size)  # type: ignore[operator, union-attr]
    return module


def creation_signature() -> dict[str, Any]:
    """Defaults of `open_clip.create_model`'s own arguments, by name."""
    parameters = inspect.signature(factory.create_model).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _recorded(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call that are not defaults and say what the model is, without directories."""
    defaults = creation_signature()
    return {
        key: Path(value).name if key in _PATHS else as_data(value, key)
        for key, value in arguments.items()
        if key not in _WHERE_NOT_WHAT and not (key in defaults and value == defaults[key])
    }


def natively_activated(config: Mapping[str, Any]) -> bool:
    """Whether the `quick_gelu` flag changes anything: timm and Hugging Face towers ignore it."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    native_vision = "timm_model_name" not in vision and not isinstance(vision.get("layers"), list | tuple)
    return native_vision or not text.get("hf_model_name") or "multimodal_cfg" in config

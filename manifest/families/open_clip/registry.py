"""Which of open_clip's registered configs a recovered one is: the name brings what a module does not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import open_clip
from open_clip.coca_model import MultimodalCfg
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from manifest.families.open_clip.building import resolve
from manifest.families.open_clip.hugging_face import CONFIG
from manifest.families.protocol import Creation

_NOT_COMPARED = frozenset(
    {"timm_model_pretrained", "hf_model_pretrained", "ls_init_value", "act_kwargs", "norm_kwargs", CONFIG}
)


def registered_name(class_name: str, recovered: Mapping[str, Any]) -> str | None:
    """The registered config that agrees with every recovered value, preferring names without a suffix."""
    matches = []
    for name in open_clip.list_models():
        proposal = resolve(Creation(name))
        if proposal.class_name == class_name and _agrees(proposal.config, recovered):
            matches.append(name)
    return min(matches, key=len, default=None)


def _agrees(registered: Mapping[str, Any], recovered: Mapping[str, Any]) -> bool:
    if registered["embed_dim"] != recovered["embed_dim"]:
        return False
    if bool(registered.get("quick_gelu")) != bool(recovered.get("quick_gelu")):
        return False
    kinds = {"vision_cfg": CLIPVisionCfg, "text_cfg": CLIPTextCfg, "multimodal_cfg": MultimodalCfg}
    for part, kind in kinds.items():
        if part not in recovered:
            continue
        if part not in registered:
            return False
        full = vars(kind(**registered[part]))
        for key, value in recovered[part].items():
            # An empty pool in a config means the trunk's own, which is what the module shows.
            if key in _NOT_COMPARED or (key == "timm_pool" and not full[key]):
                continue
            if normal(full.get(key)) != normal(value):
                return False
    return True


def normal(value: Any) -> Any:
    """A value of a config in the one spelling by which two are compared: (224, 224) as 224, None and "" alike."""
    if isinstance(value, list | tuple):
        items = [normal(item) for item in value]
        return items[0] if len(items) == 2 and items[0] == items[1] else items
    if isinstance(value, int | float) and not isinstance(value, bool):
        return round(float(value), 2)  # configs write 4304 / 1152 as 3.7362
    return value or None

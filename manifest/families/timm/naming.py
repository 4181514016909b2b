"""What a name of timm says: a registered architecture, a dot, and the tag of some weights.

The registry has an entry for each of them (`pretrained_cfg`); the entry without a tag is that of the default weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import get_pretrained_cfg

from manifest.identification.pretrained import split_timm_name

SOURCE = frozenset(
    {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load", "architecture", "tag"}
    | {"license", "description", "origin_url", "paper_name", "paper_ids", "notes"}
)
"""Entries of a `pretrained_cfg` that say where weights come from, not what model or which images they are for."""


def cfg_of(name: str) -> dict[str, Any] | None:
    """The registry's entry of a name, None when it has none."""
    try:
        found = get_pretrained_cfg(name)
    except RuntimeError:  # there is such an architecture, and no such tag
        return None
    cfg: dict[str, Any] | None = None if found is None else found.to_dict()
    return cfg


def shortest(architecture: str, tag: str) -> str:
    """The name without its tag, where the tag changes nothing but where the weights come from."""
    tagged = cfg_of(f"{architecture}.{tag}") if tag else None
    default = cfg_of(architecture)
    if tagged is None or default is None or substance(tagged) == substance(default):
        return architecture
    return f"{architecture}.{tag}"


def substance(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What of an entry bears on model and images."""
    return {key: value for key, value in cfg.items() if key not in SOURCE}


def is_image_tower(name: str) -> bool:
    """Whether the weights of a name are the image tower of a CLIP, and not a classifier that was one once."""
    architecture, tag = split_timm_name(name)
    tag = tag or str((cfg_of(architecture) or {}).get("tag") or "")
    words = f"{architecture}.{tag}"
    return any(word in words for word in ("clip", "siglip", "pe_core")) and "_ft_in" not in tag

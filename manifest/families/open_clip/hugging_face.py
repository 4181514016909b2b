"""Text towers from Hugging Face inside open_clip models: their own config is recorded, and they are built from it.

open_clip's config only names such a tower, by a directory or by a name on a hub, and both may be gone or other
elsewhere. So `text_cfg` of a record has one field more, `hf_config`, and the name in it is no path.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from open_clip.hf_configs import arch_dict
from torch import nn

from manifest.errors import ArchitectureError
from manifest.families.adapter import Draft
from manifest.families.transformers.building import data_of, library, require_sound

CONFIG = "hf_config"
_PATHS = ("hf_model_name", "hf_tokenizer_name")


def with_config(draft: Draft) -> Draft:
    """A draft whose text tower, if it comes from Hugging Face, has its config in it.

    Raises:
        ArchitectureError: The config is not on this machine; nothing here fetches anything.
    """
    text = draft.config["text_cfg"]
    if "hf_model_name" not in text or CONFIG in text:
        return draft
    name = text["hf_model_name"]
    try:
        config = library().AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        raise ArchitectureError(
            f"The config of the text tower {name!r} is not on this machine; give a directory that has it, or fetch it "
            f"once with `transformers.AutoConfig.from_pretrained({name!r})`."
        ) from None
    named = {key: _without_directory(text[key]) for key in _PATHS if text.get(key)}
    return replace(draft, config={**draft.config, "text_cfg": {**text, **named, CONFIG: data_of(config)}})


@contextmanager
def in_place(config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A config as open_clip takes it: the recorded text tower lies in a directory, where open_clip looks for it.

    Raises:
        ArchitectureError: The tower is recorded without its config, or with one that is refused.
    """
    text = dict(config["text_cfg"])
    if not text.get("hf_model_name"):
        yield dict(config)
        return
    inner = text.pop(CONFIG, None)
    if not isinstance(inner, Mapping) or inner.get("model_type") not in arch_dict:
        raise ArchitectureError(
            f"The config names the text tower {text['hf_model_name']!r:.80} and does not hold its config, or one of a "
            f"kind that open_clip has ({', '.join(arch_dict)}); write the manifest anew with `manifest create`."
        )
    library()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "config.json").write_text(json.dumps(require_sound(inner)), encoding="utf-8")
        yield {**config, "text_cfg": {**text, "hf_model_name": directory, "hf_model_pretrained": False}}


def recovered(text: Any) -> dict[str, Any]:
    """The `text_cfg` of a live tower from Hugging Face."""
    config: dict[str, Any] = {
        "hf_model_name": _without_directory(text.config.name_or_path) or text.config.model_type,
        "hf_model_pretrained": False,
        "hf_proj_type": {nn.Linear: "linear", nn.Sequential: "mlp"}.get(type(text.proj)),
        # open_clip registers its poolers by their class names.
        "hf_pooler_type": re.sub(r"(?<!^)(?=[A-Z])", "_", type(text.pooler).__name__).lower(),
        CONFIG: data_of(text.config),
    }
    return config | ({"output_tokens": True} if text.output_tokens else {})


def vocabulary(text_cfg: Mapping[str, Any]) -> int:
    """Number of token ids that a text tower takes."""
    return int((text_cfg.get(CONFIG) or text_cfg).get("vocab_size", 49408))


def longest_prompt(text: Any) -> int:
    """Token ids that a tower from Hugging Face has positions for."""
    # RoBERTa and its kin count positions from behind the padding's own.
    return int(text.context_length or 512) - (text.config.pad_token_id or 0) - 1


def _without_directory(name: str) -> str:
    """A name on a hub as it is, and of a directory its last part."""
    return Path(name).name if Path(name).is_absolute() or os.path.exists(name) else name  # noqa: PTH110

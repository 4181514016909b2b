"""What turns photographs and prompts into an open_clip model's inputs, recorded and rebuilt.

open_clip keeps the one on the vision tower and the other nowhere. A tokenizer is recorded with the digest of its
vocabulary when that is on this machine; nothing here fetches anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
from open_clip import factory
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer
from torch import nn

from manifest.digests import text_digest
from manifest.errors import ArchitectureError
from manifest.families.adapter import Draft
from manifest.families.json_arguments import as_data
from manifest.families.limits import as_recorded, require_sane_images
from manifest.families.open_clip.hugging_face import longest_prompt, vocabulary
from manifest.families.protocol import Creation
from manifest.schema.document import Preprocess, Tokenizer

_TOKENIZER_ARGUMENTS = frozenset(
    {"clean", "reduction_mask", "additional_special_tokens", "strip_sep_token", "language", "tokenizer_mode"}
)
_PLACE = re.compile(r"▁?(<extra_id_\d+>|<unused\d+>|\[unused\d+\])")
"""Tokens that stand for a place and no text, of which a vocabulary may have more than a model has rows."""
_LONGEST_CONTEXT = 1 << 13  # token ids a prompt


def preprocess_of(draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None) -> Preprocess:
    """The preprocessing that a live module carries, or that a creation call would give it."""
    if live is not None:
        if (carried := live_preprocess(live)) is None:
            raise ArchitectureError(
                "The model does not say how its images are preprocessed (`model.visual.preprocess_cfg` is missing); "
                "set it with `open_clip.model.set_model_preprocess_cfg(model, {…})`."
            )
        return carried
    arguments = creation.arguments if creation else {}
    cfg = open_clip.transform.merge_preprocess_dict(open_clip.transform.PreprocessCfg(), {})
    if creation is not None and creation.pretrained and draft.name and ":" not in draft.name:
        tag = registry_entry(draft.name, creation.pretrained)
        cfg = open_clip.transform.merge_preprocess_dict(cfg, tag or {})
    elif creation is not None and ":" in creation.name:
        cfg = open_clip.transform.merge_preprocess_dict(cfg, _schema_preprocess(creation.name))
    cfg["size"] = getattr(built.visual, "image_size", cfg["size"])
    overrides = arguments.get("force_preprocess_cfg") or {}
    return _preprocess_record(open_clip.transform.merge_preprocess_dict(cfg, overrides))


def live_preprocess(module: Any) -> Preprocess | None:
    """The preprocessing that a live model carries, None where it has been made without any."""
    cfg = getattr(getattr(module, "visual", None), "preprocess_cfg", None)
    return _preprocess_record(cfg) if isinstance(cfg, Mapping) else None


def registry_entry(name: str, tag: str) -> dict[str, Any] | None:
    """open_clip's registry entry of a pretrained tag (`quick_gelu`, mean, std, …), None when it has none."""
    entry: dict[str, Any] = open_clip.get_pretrained_cfg(name.replace("/", "-"), tag)
    return entry or None


def _schema_preprocess(name: str) -> dict[str, Any]:
    schema, identifier = factory.parse_model_name(name)
    if schema == "hf-hub":
        content = factory._get_hf_config(identifier)
    else:
        content = json.loads((Path(identifier) / "open_clip_config.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content.get("preprocess_cfg", {})
    return found


def _preprocess_record(cfg: Mapping[str, Any]) -> Preprocess:
    def triple(value: Any) -> list[float]:
        return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)] * 3

    return Preprocess(
        size=list(pair(cfg["size"])),
        mode=cfg.get("mode", "RGB"),
        mean=triple(cfg["mean"]),
        std=triple(cfg["std"]),
        interpolation=cfg.get("interpolation") or "bicubic",
        resize_mode=cfg.get("resize_mode") or "shortest",
        fill_color=cfg.get("fill_color") or 0,
    )


def preprocess_cfg(record: Preprocess) -> dict[str, Any]:
    """A recorded preprocessing as open_clip's own dict."""
    return {
        "size": tuple(record.size),
        "mode": record.mode,
        "mean": tuple(record.mean),
        "std": tuple(record.std),
        "interpolation": record.interpolation,
        "resize_mode": record.resize_mode,
        "fill_color": record.fill_color,
    }


def tokenizer_of(draft: Draft, built: nn.Module) -> Tokenizer:
    """The tokenizer that `open_clip.get_tokenizer` would choose, with its vocabulary's digest when it is at hand."""
    text = draft.config["text_cfg"]
    length = context_length(built)
    if isinstance(getattr(built, "text", None), HFTextEncoder) and text.get("context_length"):
        length = min(longest_prompt(built.text), int(text["context_length"]))
    arguments = as_data(text.get("tokenizer_kwargs") or {}, "tokenizer_kwargs")
    if text.get("hf_tokenizer_name"):
        if text.get("tokenizer_mode"):
            arguments["tokenizer_mode"] = text["tokenizer_mode"]
        record = _tokenizer_record("HFTokenizer", text["hf_tokenizer_name"], arguments, length)
    elif "siglip" in (draft.name or "").lower():
        lowered = (draft.name or "").lower()
        variant = "gemma" if "siglip2" in lowered else "mc4" if "i18n" in lowered else "c4-en"
        record = _tokenizer_record("SigLipTokenizer", variant, {}, length)
    elif vocabulary(text) >= 49408:
        record = _tokenizer_record("SimpleTokenizer", None, arguments, length)
    else:
        # Whatever its tokenizer was, it is not one of open_clip's; golden outputs are taken on token ids instead.
        return _tokenizer_record("unknown", None, {}, length)
    tokenizer = load_tokenizer(record)
    return record if tokenizer is None else record.model_copy(update=_vocabulary_facts(tokenizer))


def _tokenizer_record(kind: str, name: str | None, arguments: dict[str, Any], length: int) -> Tokenizer:
    return Tokenizer.model_validate({"class": kind, "name": name, "arguments": arguments, "context_length": length})


def load_preprocess(record: Preprocess) -> Any:
    """The recorded preprocessing: a PIL image → float32 tensor of shape (3, height, width).

    Raises:
        ArchitectureError: It is none that open_clip has; a record may come from anyone.
    """
    with as_recorded(record, "open_clip"):
        require_sane_images(record)
        cfg = open_clip.transform.PreprocessCfg(**preprocess_cfg(record))
        return open_clip.transform.image_transform_v2(cfg, is_train=False)


def load_tokenizer(record: Tokenizer) -> Any:
    """The recorded tokenizer, or None where its vocabulary would have to be fetched from a hub.

    Raises:
        ArchitectureError: It makes more tokens than any model takes.
    """
    if record.context_length > _LONGEST_CONTEXT:
        raise ArchitectureError(
            f"The tokenizer is recorded with {record.context_length:,} tokens a prompt, expected at most "
            f"{_LONGEST_CONTEXT:,}; get the manifest from a source you trust."
        )
    # By name, since a record may come from anyone and a loader's other arguments open files or run code.
    known = {name: value for name, value in record.arguments.items() if name in _TOKENIZER_ARGUMENTS}
    if record.class_name == "SimpleTokenizer":
        return _simple_tokenizer(record.context_length, json.dumps(known, sort_keys=True))
    if record.class_name == "HFTokenizer":
        try:
            return open_clip.tokenizer.HFTokenizer(
                record.name, context_length=record.context_length, local_files_only=True, **known
            )
        except (ImportError, OSError, ValueError):  # transformers is not installed, or the files are not cached
            return None
    return None


@lru_cache(8)
def _simple_tokenizer(context_length: int, arguments: str) -> Any:
    """open_clip's own, which takes a third of a second to read its vocabulary."""
    return SimpleTokenizer(context_length=context_length, **json.loads(arguments))


def added_tokens(tokenizer: Any) -> dict[str, int]:
    """Ids of the tokens that stand beside a vocabulary's words, by their text: those that every tokenizer has, and
    those that were added to this one."""
    if tokenizer is None:
        return {}
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is not None:
        found: dict[str, int] = inner.get_added_vocab()
        return found
    return {tokenizer.decoder[number]: number for number in tokenizer.all_special_ids}


def ids_of_texts(vocabulary: Mapping[str, int]) -> int | None:
    """One more than the greatest id that texts become: T5 and its kin end with tokens that stand for no text."""
    return max((index for token, index in vocabulary.items() if not _PLACE.fullmatch(token)), default=-1) + 1 or None


@lru_cache(8)
def _vocabulary_facts(tokenizer: Any) -> dict[str, Any]:
    """What is recorded of a vocabulary: it is long and does not change, and each save and verify asks for it."""
    inner = getattr(tokenizer, "tokenizer", None)
    ids: dict[str, int] = inner.get_vocab() if inner is not None else tokenizer.encoder
    lines = (f"{index} {token}" for token, index in sorted(ids.items(), key=lambda item: item[1]))
    return {"digest": text_digest(lines), "vocabulary": ids_of_texts(ids)}


def context_length(module: Any) -> int:
    """Token ids per prompt; a CoCa's own `context_length` is its decoder's."""
    text = getattr(module, "text", module)
    if isinstance(text, HFTextEncoder):
        return min(longest_prompt(text), int(DEFAULT_CONTEXT_LENGTH))
    length = getattr(text, "context_length", None) or getattr(module, "context_length", None)
    return int(length or DEFAULT_CONTEXT_LENGTH)


def pair(size: Any) -> tuple[int, int]:
    """A size as (height, width)."""
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) else (int(size), int(size))

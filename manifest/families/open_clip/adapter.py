"""The open_clip family: contrastive image-text models, from a creation call or from the bare module.

open_clip keeps no config on its modules. So an architecture is proposed, from the call that was seen or from what
`open_clip_recovery` reads off the module, and then proved: it is built without weights and must have the same
structure, names, shapes and types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from open_clip.hf_model import HFTextEncoder
from torch import nn

from manifest.errors import ArchitectureError, InputError
from manifest.families.adapter import Adapter, Draft
from manifest.families.json_arguments import as_data
from manifest.families.open_clip.building import CLASSES, PRECISIONS, construct, natively_activated, resolve
from manifest.families.open_clip.hugging_face import vocabulary, with_config
from manifest.families.open_clip.inputs import (
    added_tokens,
    context_length,
    live_preprocess,
    load_preprocess,
    load_tokenizer,
    pair,
    preprocess_cfg,
    preprocess_of,
    tokenizer_of,
)
from manifest.families.open_clip.recovery import recover
from manifest.families.open_clip.registry import normal, registered_name
from manifest.families.protocol import Conversion, Creation, Difference, Variant
from manifest.families.readings import averaged, logits_of, of_prompts
from manifest.probes.inputs import Inputs, Probe, images_and_prompts, needs_no_tokenizer, shipped
from manifest.schema.document import Architecture, Preprocess, Reading, Tokenizer
from manifest.schema.vocabulary import activation_words
from manifest.weights.shape_diff import ShapeDiff

_INTERPOLATED = frozenset({"visual.positional_embedding", "positional_embedding", "text.positional_embedding"})
"""What `open_clip.load_checkpoint` resizes; other sizes it refuses."""
_VISION_PROJECTIONS = ("visual.proj", "visual.attnpool.c_proj.", "visual.head.")
_TRUNK_PROJECTIONS = ("visual.trunk.head.weight", "visual.trunk.head.bias", "visual.trunk.head.fc.")
_TEXT_PROJECTIONS = ("text_projection", "text.text_projection", "text.proj")

_CAPTION_TOKENS = 64
_TEXTS_AT_ONCE = 256


class OpenClip(Adapter):
    """Adapter for open_clip's CLIP, CustomTextCLIP and CoCa."""

    name = "open_clip"
    builder = "open_clip.create_model"
    float32 = frozenset({"fp32", "amp", "amp_bf16", "amp_bfloat16"})
    rows: ClassVar[Mapping[str, str]] = {
        "image_features": "images",
        "text_features": "tokens",
        "caption_logits": "images",
    }
    pairs = frozenset({"caption_logits"})

    def recognises(self, module: nn.Module) -> bool:
        return isinstance(module, tuple(CLASSES.values()))

    def register(self, model_config: Path) -> None:
        if not model_config.is_file():
            raise InputError(f"There is no file {model_config}, expected a model config; check the path.")
        try:
            content = json.loads(model_config.read_text(encoding="utf-8"))
            sound = all(isinstance(content[part], dict) for part in ("vision_cfg", "text_cfg"))
        except (ValueError, TypeError, KeyError):
            sound = False
        if sound:
            open_clip.add_model_config(model_config)
        if not sound or model_config.stem not in open_clip.list_models():
            raise InputError(
                f"{model_config.name} is no config of open_clip, expected a .json file with embed_dim, vision_cfg and "
                "text_cfg; correct it."
            )

    def create(self, creation: Creation) -> nn.Module:
        module: nn.Module = open_clip.create_model(creation.name, creation.pretrained, **creation.arguments)
        return module

    def resolve(self, creation: Creation) -> Draft:
        precision = creation.arguments.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise ArchitectureError(
                f"open_clip has no precision {precision!r}, expected one of {', '.join(PRECISIONS)}; correct it."
            )
        return with_config(resolve(creation))

    def construct(self, draft: Draft) -> nn.Module:
        return construct(draft)

    def recover(self, module: nn.Module) -> Iterator[Draft]:
        class_name = next(name for name, kind in CLASSES.items() if isinstance(module, kind))
        config, precision = recover(module)
        name = registered_name(class_name, config)
        if name is not None:
            registered = resolve(Creation(name, {"precision": precision}))
            yield registered
            yield replace(registered, arguments={"force_image_size": as_data(_image_size(config), "image_size")})
            # Where the module departs from the registry, the module is right; what it cannot show, the registry knows.
            text = {**registered.config["text_cfg"], **config["text_cfg"]}
            config = {**registered.config, **config, "text_cfg": text}
        yield Draft(None, class_name, as_data(config, "config"), {}, precision)

    def settle(self, module: nn.Module, architecture: Architecture) -> nn.Module:
        if architecture.preprocess is not None:
            open_clip.model.set_model_preprocess_cfg(module, preprocess_cfg(architecture.preprocess))
        return super().settle(module, architecture)

    def tower(self, path: str) -> str:
        top = path.partition(".")[0]
        return top if top in {"visual", "text_decoder"} else "text"

    def forward(self, ghost: Any) -> None:
        dtype = next(ghost.visual.parameters()).dtype
        height, width = pair(ghost.visual.image_size)
        ghost.encode_image(torch.empty(1, 3, height, width, dtype=dtype, device="meta"))
        if isinstance(getattr(ghost, "text", None), HFTextEncoder):
            return  # it looks at the values of its attention mask
        ghost.encode_text(torch.zeros(1, context_length(ghost), dtype=torch.long, device="meta"))

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        del architecture
        names = list(names)
        projections = _VISION_PROJECTIONS
        if not any(name.startswith(_VISION_PROJECTIONS) for name in names):
            projections = _TRUNK_PROJECTIONS
        return {name: _role(name, projections) for name in names}

    def preprocess_of(
        self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None
    ) -> Preprocess:
        return preprocess_of(draft, built, live, creation)

    def tokenizer_of(self, draft: Draft, built: nn.Module) -> Tokenizer:
        return tokenizer_of(draft, built)

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        preprocess, tokenizer = _inputs_of(architecture)
        return load_preprocess(preprocess), load_tokenizer(tokenizer)

    def carried_preprocess(self, module: nn.Module) -> Preprocess | None:
        return live_preprocess(module)

    def inputs(self, architecture: Architecture, probe: str | None = None, material: Probe | None = None) -> Inputs:
        preprocess, tokenizer = self.transforms(architecture)
        if needs_no_tokenizer(probe):
            tokenizer = None
        length = _inputs_of(architecture)[1].context_length
        ids = vocabulary(architecture.config["text_cfg"])
        return images_and_prompts(
            material or shipped(), preprocess, tokenizer, length, ids, probe=probe, added=added_tokens(tokenizer)
        )

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        model: Any = module
        image_features = model.encode_image(inputs.tensors["images"], normalize=False)
        tokens = inputs.tensors["tokens"]
        text_features = _encoded(model, tokens)
        unit_images = nn.functional.normalize(image_features, dim=-1)
        unit_texts = nn.functional.normalize(averaged(text_features), dim=-1)
        logits = logits_of(model, unit_images, unit_texts)
        outputs = {"image_features": image_features, "text_features": text_features, "logits": logits}
        if isinstance(module, open_clip.CoCa):
            pairs = min(map(len, inputs.tensors.values()))
            texts = tokens if tokens.ndim == 2 else tokens[:, 0]
            said = model(inputs.tensors["images"][:pairs], texts[:pairs])
            # Of some tokens, evenly spread over the vocabulary: those of all would be tens of millions of numbers.
            outputs["caption_logits"] = said["logits"][..., :: max(1, said["logits"].shape[-1] // _CAPTION_TOKENS)]
        return outputs

    def shared_outputs(self, module: nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        if not {"images", "tokens"} <= inputs.tensors.keys():
            model: Any = module
            return {"image_features": model.encode_image(inputs.tensors["images"], normalize=False)}
        return self.outputs(module, inputs)

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        del architecture
        # A model with a bias was trained with the sigmoid loss: each pair is judged by itself.
        return of_prompts(outputs["logits"], inputs, each_by_itself=getattr(module, "logit_bias", None) is not None)

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        quick = bool(architecture.config.get("quick_gelu"))
        config = {**architecture.config, "quick_gelu": not quick}
        if not natively_activated(config):
            return ()
        now, then = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
        return (
            Variant(
                "activation",
                here=now,
                there=then,
                cure=_activation_cure(architecture.name, quick=not quick),
                back=_activation_cure(architecture.name, quick=quick),
                architecture=architecture.model_copy(update={"config": config}),
            ),
        )

    def differences(self, asked: Architecture, recorded: Architecture) -> list[Difference]:
        return list(_differences(asked, recorded))

    def conversions(self, architecture: Architecture, misfit: ShapeDiff) -> list[Conversion]:
        del architecture
        found = [
            Conversion("position_embedding", f"{name} {list(before)} → {list(after)}")
            for name, (before, after) in misfit.reshaped.items()
            if name in _INTERPOLATED and before[1:] == after[1:]
        ]
        if "logit_bias" in misfit.missing:
            found.append(Conversion("logit_bias", "logit_bias, which the weights lack, set to zero"))
        return found


FAMILY = OpenClip()


def _encoded(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Embeddings that are not normalised, of tokens of shape (prompts, context length) or (prompts, templates, …)."""
    if tokens.ndim == 2:
        plain: torch.Tensor = model.encode_text(tokens, normalize=False)
        return plain
    parts = [model.encode_text(part, normalize=False) for part in torch.split(tokens.flatten(0, 1), _TEXTS_AT_ONCE)]
    return torch.cat(parts).reshape(*tokens.shape[:2], -1)


def _differences(asked: Architecture, recorded: Architecture) -> Iterator[Difference]:
    if asked.activations != recorded.activations:
        cure = _activation_cure(asked.name, quick=bool(recorded.config.get("quick_gelu")))
        yield Difference(
            "A001",
            f"it would be built with {activation_words(asked.activations)}, and the weights were saved with "
            f"{activation_words(recorded.activations)}",
            cure,
        )
    for name, forced in (("image_size", "vision_cfg"), ("context_length", "text_cfg")):
        default = {"image_size": 224, "context_length": 77}[name]
        mine, yours = (a.config[forced].get(name, default) for a in (asked, recorded))
        if normal(mine) != normal(yours):
            yield Difference(
                "A002",
                f"its {name} would be {mine}, and is recorded as {yours}",
                f"force_{name}={yours!r}",
                "position_embedding",
            )
    cfg: dict[str, Any] = {}
    mine, yours = (_inputs_of(architecture)[0].model_dump() for architecture in (asked, recorded))
    for name in ("mean", "std", "interpolation", "resize_mode"):
        if mine[name] != yours[name]:
            cfg[name] = tuple(yours[name]) if isinstance(yours[name], list) else yours[name]
    if cfg:
        listed = ", ".join(f"{name} {mine[name]} instead of {cfg[name]}" for name in cfg)
        yield Difference("A006", f"its images would be preprocessed with {listed}", f"force_preprocess_cfg={cfg!r}")
    plain = asked.activations == recorded.activations and asked.structure != recorded.structure
    if plain and asked.config != recorded.config:
        parts = sorted(_flat(asked.config).items() ^ _flat(recorded.config).items(), key=str)
        names = sorted({name for name, _ in parts} - {"vision_cfg.image_size", "text_cfg.context_length"})
        if names:
            yield Difference("A002", f"its config differs in {', '.join(names[:4])}", "on_mismatch='follow'")


def _flat(config: Mapping[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}": repr(normal(value))}
    return flat


def _activation_cure(name: str | None, *, quick: bool) -> str:
    """The argument that switches the activation of open_clip's own towers."""
    if quick:
        return "force_quick_gelu=True"
    plain = (name or "").removesuffix("-quickgelu")
    return f"model_name={plain!r}" if plain != name else "force_quick_gelu=False"


def _image_size(config: Mapping[str, Any]) -> Any:
    return config["vision_cfg"].get("image_size")


def _inputs_of(architecture: Architecture) -> tuple[Preprocess, Tokenizer]:
    if architecture.preprocess is None or architecture.tokenizer is None:
        raise ArchitectureError(
            "The manifest says nothing of an open_clip model's preprocessing or tokenizer; "
            "write it anew with `manifest create`."
        )
    return architecture.preprocess, architecture.tokenizer


def _role(name: str, vision_projections: tuple[str, ...]) -> str:
    if name in {"logit_scale", "logit_bias"}:
        return name
    if name.startswith("visual."):
        return "vision_projection" if name.startswith(vision_projections) else "vision_tower"
    if name.startswith("text_decoder."):
        return "text_decoder"
    return "text_projection" if name.startswith(_TEXT_PROJECTIONS) else "text_tower"

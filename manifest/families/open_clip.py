"""The open_clip family: contrastive image-text models, from a creation call or from the bare module.

open_clip keeps no config on its modules. So an architecture is proposed, from the call that was seen or from what
`open_clip_recovery` reads off the module, and then proved: it is built without weights and must have the same
structure, names, shapes and types.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from manifest.document import Architecture, Mode, Operators, activation_words
from manifest.errors import ArchitectureError, InputError, ManifestError, one_line
from manifest.families import Creation, Difference, Variant
from manifest.families.open_clip_building import (
    CLASSES,
    PRECISIONS,
    Proposal,
    construct,
    creation_signature,
    first_departure,
    natively_activated,
    proposal_of,
    resolve,
)
from manifest.families.open_clip_inputs import (
    as_data,
    context_length,
    load_preprocess,
    load_tokenizer,
    pair,
    preprocess_cfg,
    preprocess_of,
    tokenizer_of,
)
from manifest.families.open_clip_recovery import recover
from manifest.families.open_clip_registry import normal, registered_name
from manifest.golden.probe import WITHOUT_TOKENIZER, Inputs, photographs_and_prompts
from manifest.structure import structure, structure_digest, trace

_WHERE_NOT_WHAT = frozenset({"pretrained", "device", "cache_dir", "load_weights", "jit", "require_pretrained"})
"""Arguments of `create_model` that say where weights come from or go, not what the model is."""
_PATHS = frozenset({"pretrained_image_path", "pretrained_text_path"})
_VISION_PROJECTIONS = ("visual.proj", "visual.attnpool.c_proj.", "visual.head.")
_TRUNK_PROJECTIONS = ("visual.trunk.head.weight", "visual.trunk.head.bias", "visual.trunk.head.fc.")
_TEXT_PROJECTIONS = ("text_projection", "text.text_projection", "text.proj")


class OpenClip:
    """Adapter for open_clip's CLIP, CustomTextCLIP and CoCa."""

    name = "open_clip"

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

    def capture(self, module: nn.Module, creation: Creation | None) -> Architecture:
        differences = []
        for proposal in _proposals(module, creation):
            built = construct(proposal)
            departure = first_departure(built, module)
            if departure is None:
                return _architecture(proposal, built, module, creation)
            differences.append(departure)
        raise ArchitectureError(
            f"This {type(module).__name__} cannot be rebuilt from its creation call or from what it shows "
            f"({differences[-1]:.200}); save it with model_name=NAME, or make it with `manifest.create_model(NAME, …)` "
            "and every change as an argument."
        )

    def describe(self, creation: Creation) -> Architecture:
        precision = creation.arguments.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise ArchitectureError(
                f"open_clip has no precision {precision!r}, expected one of {', '.join(PRECISIONS)}; correct it."
            )
        try:
            proposal = resolve(creation)
            return _architecture(proposal, construct(proposal), None, creation)
        except ManifestError:
            raise
        except Exception as error:  # the library may raise anything over a name or an argument that someone made up
            raise ArchitectureError(
                f"{creation.name!r} cannot be built with {_shown(creation.arguments)} ({one_line(error)}); "
                "correct the name or the arguments."
            ) from error

    def build(self, architecture: Architecture) -> nn.Module:
        module = construct(proposal_of(architecture))
        open_clip.model.set_model_preprocess_cfg(module, preprocess_cfg(architecture.preprocess))
        return module

    def activations(self, module: nn.Module) -> dict[str, dict[str, int]]:
        counts: dict[str, Counter[str]] = {}
        for path, child in module.named_modules():
            if label := _activation_label(child):
                top = path.partition(".")[0]
                counts.setdefault(top if top in {"visual", "text_decoder"} else "text", Counter())[label] += 1
        return {tower: dict(kinds) for tower, kinds in counts.items()}

    def operators(self, module: nn.Module) -> Operators:
        def forward(ghost: Any) -> None:
            dtype = next(ghost.visual.parameters()).dtype
            height, width = pair(ghost.visual.image_size)
            ghost.encode_image(torch.empty(1, 3, height, width, dtype=dtype, device="meta"))
            ghost.encode_text(torch.zeros(1, context_length(ghost), dtype=torch.long, device="meta"))

        return trace(module, forward).record()

    def roles(self, names: Iterable[str]) -> dict[str, str]:
        names = list(names)
        projections = _VISION_PROJECTIONS
        if not any(name.startswith(_VISION_PROJECTIONS) for name in names):
            projections = _TRUNK_PROJECTIONS
        return {name: _role(name, projections) for name in names}

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        return load_preprocess(architecture.preprocess), load_tokenizer(architecture.tokenizer)

    def inputs(self, architecture: Architecture, probe: str | None = None) -> Inputs:
        preprocess, tokenizer = self.transforms(architecture)
        if probe == WITHOUT_TOKENIZER:
            tokenizer = None
        vocabulary = architecture.config["text_cfg"].get("vocab_size", 49408)
        return photographs_and_prompts(preprocess, tokenizer, architecture.tokenizer.context_length, vocabulary)

    def outputs(self, module: nn.Module, images: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        model: Any = module
        image_features = model.encode_image(images, normalize=False)
        text_features = model.encode_text(tokens, normalize=False)
        unit_images = nn.functional.normalize(image_features, dim=-1)
        unit_texts = nn.functional.normalize(text_features, dim=-1)
        logits = model.logit_scale.exp() * unit_images @ unit_texts.T
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
        return {"image_features": image_features, "text_features": text_features, "logits": logits}

    def probabilities(self, module: nn.Module, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        model: Any = module
        logits = outputs["logits"].double()
        # A model with a bias was trained with the sigmoid loss: each pair is judged by itself.
        return logits.softmax(dim=-1) if model.logit_bias is None else logits.sigmoid()

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        quick = bool(architecture.config.get("quick_gelu"))
        config = {**architecture.config, "quick_gelu": not quick}
        if not natively_activated(config):
            return ()
        now, then = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
        return (
            Variant(
                name="activation",
                description=f"the config builds {now}, and the weights belong to {then}",
                architecture=architecture.model_copy(update={"config": config}),
                cure=_activation_cure(architecture.name, quick=not quick),
            ),
        )

    def differences(self, asked: Architecture, recorded: Architecture) -> list[Difference]:
        return list(_differences(asked, recorded))


FAMILY = OpenClip()


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
                "A002", f"its {name} would be {mine}, and is recorded as {yours}", f"force_{name}={yours!r}"
            )
    cfg: dict[str, Any] = {}
    for name in ("mean", "std", "interpolation", "resize_mode"):
        mine, yours = getattr(asked.preprocess, name), getattr(recorded.preprocess, name)
        if mine != yours:
            cfg[name] = tuple(yours) if isinstance(yours, list) else yours
    if cfg:
        listed = ", ".join(f"{name} {getattr(asked.preprocess, name)} instead of {cfg[name]}" for name in cfg)
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


def _proposals(module: nn.Module, creation: Creation | None) -> Iterator[Proposal]:
    if creation is not None and creation.architecture is not None:
        yield proposal_of(creation.architecture)
    elif creation is not None:
        yield resolve(creation)
    class_name = next(name for name, kind in CLASSES.items() if isinstance(module, kind))
    config, precision = recover(module)
    name = registered_name(class_name, config)
    if name is not None:
        registered = resolve(Creation(name, {"precision": precision}))
        yield registered
        yield Proposal(name, class_name, registered.config, precision, config["vision_cfg"].get("image_size"))
        # Where the module departs from the registry, the module is right; what it cannot show, the registry knows.
        config = {
            **registered.config,
            **config,
            "text_cfg": {**registered.config["text_cfg"], **config["text_cfg"]},
        }
    yield Proposal(None, class_name, config, precision)


def _architecture(
    proposal: Proposal, built: nn.Module, live: nn.Module | None, creation: Creation | None
) -> Architecture:
    preprocess = preprocess_of(proposal, built, live, creation)
    return Architecture.model_validate(
        {
            "family": FAMILY.name,
            "name": proposal.name,
            "class": proposal.class_name,
            "builder": "open_clip.create_model",
            "arguments": _recorded_arguments(proposal, creation),
            "config": as_data(proposal.config, "config"),
            "activations": FAMILY.activations(built),
            "preprocess": preprocess,
            "tokenizer": tokenizer_of(proposal, built),
            "precision": proposal.precision,
            "mode": Mode.UNKNOWN if live is None else _mode(live),
            "structure": structure_digest(structure(built)),
            "operators": FAMILY.operators(built),
        }
    )


def _activation_label(module: nn.Module) -> str | None:
    kind = type(module)
    home = kind.__module__
    known = home in {"torch.nn.modules.activation", "transformers.activations"} or home.startswith(
        "timm.layers.activations"
    )
    if kind.__name__ != "QuickGELU" and (not known or isinstance(module, nn.MultiheadAttention)):
        return None
    approximate = getattr(module, "approximate", "none")
    return kind.__name__ if approximate == "none" else f"{kind.__name__}({approximate})"


def _recorded_arguments(proposal: Proposal, creation: Creation | None) -> dict[str, Any]:
    """The arguments of the call that are not defaults and say what the model is, without directories."""
    recorded: dict[str, Any] = {}
    defaults = creation_signature()
    for key, value in (creation.arguments if creation else {}).items():
        if key in _WHERE_NOT_WHAT or (key in defaults and value == defaults[key]):
            continue
        recorded[key] = Path(value).name if key in _PATHS else as_data(value, key)
    if proposal.image_size is not None:
        recorded["force_image_size"] = as_data(proposal.image_size, "force_image_size")
    return recorded


def _mode(module: nn.Module) -> Mode:
    modes = {child.training for child in module.modules()}
    return Mode.MIXED if len(modes) == 2 else Mode.TRAIN if modes == {True} else Mode.EVAL


def _role(name: str, vision_projections: tuple[str, ...]) -> str:
    if name in {"logit_scale", "logit_bias"}:
        return name
    if name.startswith("visual."):
        return "vision_projection" if name.startswith(vision_projections) else "vision_tower"
    if name.startswith("text_decoder."):
        return "text_decoder"
    return "text_projection" if name.startswith(_TEXT_PROJECTIONS) else "text_tower"


def _shown(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "no arguments"

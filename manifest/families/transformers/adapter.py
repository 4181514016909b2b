"""The transformers family: any `PreTrainedModel`, by its config, which it carries with it.

So a model whose making was not seen is as good as one that was. A config says nothing of preprocessing or tokenizers:
those of a model are recorded when a `preprocessor_config.json` is named, and golden outputs are otherwise taken on
photographs that are plainly resized, and on token ids. Imports transformers only when something is built.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from manifest.errors import InputError
from manifest.families.adapter import Adapter, Draft, cast, precision_of
from manifest.families.json_arguments import as_data
from manifest.families.open_clip.inputs import load_preprocess
from manifest.families.protocol import Creation, Variant
from manifest.families.readings import most_likely, of_prompts
from manifest.families.transformers.building import (
    ATTENTION,
    build,
    config_of,
    data_of,
    directory_config,
    model_class,
    stored_names,
)
from manifest.families.transformers.inputs import USUAL_SIDE, plain_preprocess, recorded_preprocess
from manifest.probes.flatten import flatten
from manifest.probes.inputs import Inputs, Probe, images_alone, images_and_prompts, shipped, tensors_given, tokens_alone
from manifest.probes.shapes import SHAPES, drawn
from manifest.schema.document import Architecture, Preprocess, Reading

_TWO_TOWERS = frozenset({"CLIPModel", "SiglipModel", "MetaClip2Model", "ChineseCLIPModel"})
_OF_IMAGES = "ForImageClassification"
_HEADS = (
    "classifier",
    "cls_classifier",
    "cls",
    "distillation_classifier",
    "lm_head",
    "proj_out",
    "qa_outputs",
    "score",
)
_ACTIVATIONS = ("gelu", "quick_gelu", "gelu_pytorch_tanh")
"""Those that are mistaken for one another."""
_ARGUMENTS = frozenset({"config", "class_name", ATTENTION, "precision", "preprocessor"})
_MOST_TOKENS = 77
_RESERVED = 2
"""Positions that RoBERTa and its kin count from."""


class Transformers(Adapter):
    """Adapter for the models of Hugging Face's transformers."""

    name = "transformers"
    builder = "transformers.PreTrainedModel"
    rows: ClassVar[Mapping[str, str]] = {
        "image_features": "images",
        "text_features": "tokens",
        "class_logits": "images",
    }

    def recognises(self, module: nn.Module) -> bool:
        # Whoever made such a model has imported this; anyone else need not wait for it.
        home = sys.modules.get("transformers.modeling_utils")
        return home is not None and isinstance(module, home.PreTrainedModel)

    def resolve(self, creation: Creation) -> Draft:
        """A draft of a model class by its name with `config`, or of a directory with a `config.json`.

        Raises:
            UnknownModelError: transformers has no such class.
            InputError: An argument is unknown, or the directory has no config.
        """
        arguments = dict(creation.arguments)
        if unknown := sorted(arguments.keys() - _ARGUMENTS):
            raise InputError(
                f"transformers takes no argument {unknown[0]!r}, expected among {', '.join(sorted(_ARGUMENTS))}; "
                "put settings of the model into `config`."
            )
        precision = str(arguments.pop("precision", "fp32"))
        arguments.pop("preprocessor", None)
        class_name, config = arguments.pop("class_name", None), arguments.pop("config", {})
        if Path(creation.name).is_dir():
            named, content = directory_config(Path(creation.name))
            class_name, config = class_name or named, {**content, **config}
        kind = model_class(str(class_name or creation.name))
        config = kind.config_class.from_dict({**config, **arguments})
        return Draft(None, kind.__name__, data_of(config), as_data(arguments, "arguments"), precision)

    def construct(self, draft: Draft) -> nn.Module:
        return build(draft.class_name, draft.config, draft.precision)

    def create(self, creation: Creation) -> nn.Module:
        draft = self.resolve(creation)
        if not Path(creation.name).is_dir():
            return self.construct(draft)
        kind = model_class(draft.class_name)
        stored = kind.from_pretrained(creation.name, local_files_only=True, dtype=torch.float32)
        return cast(stored, draft.precision.removeprefix("pure_"))

    def recover(self, module: nn.Module) -> Iterator[Draft]:
        live: Any = module
        precision = precision_of(module)
        data = data_of(live.config)
        yield Draft(None, type(module).__name__, data, {}, precision)
        if precision != "fp32":
            yield Draft(None, type(module).__name__, data, {}, f"pure_{precision}")

    def tower(self, path: str) -> str:
        top = path.partition(".")[0]
        return {"vision_model": "vision", "text_model": "text", "encoder": "encoder", "decoder": "decoder"}.get(
            top, "model"
        )

    def forward(self, ghost: nn.Module) -> None:
        try:
            _ask(ghost)
        except Exception as error:  # what a model wants to be asked, and of values, is its own affair
            raise NotImplementedError from error

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        del architecture
        names = list(names)
        tops = {name.partition(".")[0] for name in names}
        two = {"vision_model", "text_model"} <= tops
        return {name: _role(name, two=two) for name in names}

    def preprocess_asked(self, creation: Creation) -> Preprocess | None:
        named = creation.arguments.get("preprocessor")
        return None if named is None else recorded_preprocess(named)

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        record = architecture.preprocess
        return None if record is None else load_preprocess(record), None

    def probe_preprocess(self, architecture: Architecture) -> Preprocess | None:
        config = architecture.config
        if architecture.preprocess is None and architecture.class_name in _TWO_TOWERS:
            return plain_preprocess(config["vision_config"])
        if architecture.preprocess is None and _sees_photographs(architecture):
            return plain_preprocess(config)
        return architecture.preprocess

    def inputs(
        self, architecture: Architecture, probe: str | None = None, material: Probe | None = None
    ) -> Inputs | None:
        if probe is not None and probe.startswith(SHAPES):
            return drawn(probe)
        material = material or shipped()
        config, record = architecture.config, self.probe_preprocess(architecture)
        if architecture.class_name in _TWO_TOWERS and record is not None:
            preprocess = load_preprocess(record)
            text = config["text_config"]
            length = min(int(text["max_position_embeddings"]), _MOST_TOKENS)
            return images_and_prompts(material, preprocess, None, length, int(text["vocab_size"]), probe=probe)
        if _sees_photographs(architecture) and record is not None:
            return images_alone(material, load_preprocess(record))
        if material.tensors:
            return tensors_given(material)
        kind = model_class(architecture.class_name)
        if kind.main_input_name == "input_ids" and "vocab_size" in config and not config.get("is_encoder_decoder"):
            positions = getattr(config_of(kind, config), "max_position_embeddings", None) or _MOST_TOKENS
            return tokens_alone(material, min(positions - _RESERVED, _MOST_TOKENS), int(config["vocab_size"]), probe)
        return None

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        images, tokens = inputs.tensors.get("images"), inputs.tensors.get("tokens")
        if images is None:
            asked = {"input_ids": tokens} if tokens is not None else dict(inputs.tensors)
            return flatten(module(**asked, return_dict=True))
        if tokens is None:
            return {"class_logits": module(pixel_values=images, return_dict=True).logits}
        said = module(pixel_values=images, input_ids=tokens, return_dict=True)
        return {
            "image_features": said.image_embeds,
            "text_features": said.text_embeds,
            "logits": said.logits_per_image,
        }

    def shared_outputs(self, module: nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        model: Any = module
        if type(module).__name__ not in _TWO_TOWERS or "images" not in inputs.tensors:
            return {}
        images, tokens = inputs.tensors["images"], inputs.tensors.get("tokens")
        found = {"image_features": _pooled(model.get_image_features(pixel_values=images))}
        if tokens is not None:
            found["text_features"] = _pooled(model.get_text_features(input_ids=tokens))
            found["logits"] = model(pixel_values=images, input_ids=tokens, return_dict=True).logits_per_image
        return found

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        if "logits" in outputs:
            # A model with a bias was trained with the sigmoid loss: each pair is judged by itself.
            return of_prompts(outputs["logits"], inputs, each_by_itself=hasattr(module, "logit_bias"))
        if "class_logits" not in outputs:
            return []
        labels = architecture.config.get("id2label") or {}
        logits = outputs["class_logits"]
        categories = [str(labels.get(str(index), index)) for index in range(logits.shape[-1])]
        return most_likely(logits, inputs.names["images"], categories)

    def stored_names(self, module: nn.Module) -> Mapping[str, str]:
        return stored_names(module)

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        now = next(iter(_hidden_acts(architecture.config)), None)
        if now not in _ACTIVATIONS:
            return ()
        return [
            Variant(
                "activation",
                here=now,
                there=other,
                cure=_setting(architecture.config, now, other),
                back=_setting(architecture.config, now, now),
                architecture=architecture.model_copy(update={"config": _with_act(architecture.config, now, other)}),
            )
            for other in _ACTIVATIONS
            if other != now
        ]

    def _drafts(self, module: nn.Module, creation: Creation | None) -> Iterator[Draft]:
        # The config that the model carries comes first: it may have been changed since the model was made.
        yield from self.recover(module)
        if creation is not None:
            yield self.draft_of(creation.architecture) if creation.architecture else self.resolve(creation)


FAMILY = Transformers()


def _sees_photographs(architecture: Architecture) -> bool:
    return architecture.class_name.endswith(_OF_IMAGES) and architecture.config.get("num_channels", 3) == 3


def _pooled(said: Any) -> torch.Tensor:
    """Features as versions of the library give them: by themselves, or as the pooled output."""
    features: torch.Tensor = said if isinstance(said, torch.Tensor) else said.pooler_output
    return features


def _ask(ghost: Any) -> None:
    config = ghost.config
    asked: dict[str, torch.Tensor] = {}
    two = hasattr(config, "vision_config") and hasattr(config, "text_config")
    if two or ghost.main_input_name == "pixel_values":
        seen = config.vision_config if two else config
        height, width = _sides(getattr(seen, "image_size", None) or USUAL_SIDE)
        channels = getattr(seen, "num_channels", 3)
        dtype = next(ghost.parameters()).dtype
        asked["pixel_values"] = torch.empty(1, channels, height, width, dtype=dtype, device="meta")
    if two or ghost.main_input_name == "input_ids":
        length = min(16, getattr(config.text_config if two else config, "max_position_embeddings", None) or 16)
        asked["input_ids"] = torch.zeros(1, length, dtype=torch.long, device="meta")
        if getattr(config, "is_encoder_decoder", False):
            asked["decoder_input_ids"] = asked["input_ids"]
    if not asked:
        raise NotImplementedError
    ghost(**asked)


def _sides(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) else (int(size), int(size))


def _role(name: str, *, two: bool) -> str:
    top = name.partition(".")[0]
    if not two:
        return "head" if top in _HEADS else "backbone"
    if top in {"logit_scale", "logit_bias"}:
        return top
    roles = {
        "vision_model": "vision_tower",
        "visual_projection": "vision_projection",
        "text_model": "text_tower",
        "text_projection": "text_projection",
    }
    return roles.get(top, "backbone")


def _hidden_acts(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in config.items():
        if name == "hidden_act":
            yield str(value)
        elif isinstance(value, Mapping):
            yield from _hidden_acts(value)


def _setting(config: Mapping[str, Any], now: str, other: str) -> str:
    """Code that sets an activation in each part of a config that has this one; on the whole it would change nothing."""
    places = [f"config.{path}hidden_act" for path in _paths_of(config, now)]
    return f"{' = '.join(places)} = {other!r}, then `from_pretrained(PATH, config=config)`"


def _paths_of(config: Mapping[str, Any], act: str, path: str = "") -> Iterator[str]:
    for name, value in config.items():
        if name == "hidden_act" and value == act:
            yield path
        elif isinstance(value, Mapping):
            yield from _paths_of(value, act, f"{path}{name}.")


def _with_act(config: Mapping[str, Any], now: str, other: str) -> dict[str, Any]:
    """A config with another activation wherever it has this one."""
    return {
        name: other
        if name == "hidden_act" and value == now
        else _with_act(value, now, other)
        if isinstance(value, Mapping)
        else value
        for name, value in config.items()
    }

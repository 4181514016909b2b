"""Models of transformers are told whatever their size, as files have them and as modules do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from manifest.checkpoint import open_checkpoint
from manifest.identification.identify import identify
from manifest.identification.index.templates import templates

transformers = pytest.importorskip("transformers")

TEXT = {
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 17,
}
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
}
BOTH = {"text_config": TEXT, "vision_config": IMAGE}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODELS: dict[str, Mapping[str, Any]] = {
    "CLIPModel": {**BOTH, "projection_dim": 20},
    "CLIPVisionModelWithProjection": {**IMAGE, "projection_dim": 20},
    "CLIPVisionModel": IMAGE,
    "CLIPTextModelWithProjection": {**TEXT, "projection_dim": 20},
    "CLIPTextModel": TEXT,
    "SiglipModel": BOTH,
    "SiglipVisionModel": IMAGE,
    "ViTModel": IMAGE,
    "ViTForImageClassification": {**IMAGE, "num_labels": 5},
    "Dinov2Model": {key: value for key, value in IMAGE.items() if key != "intermediate_size"},
    "BertModel": TEXT,
    "BertForMaskedLM": TEXT,
    "BertForSequenceClassification": {**TEXT, "num_labels": 5},
    "RobertaForMaskedLM": TEXT,
    "Qwen2ForCausalLM": {**TEXT, "num_key_value_heads": 1, **TOKENS},
    "Qwen3ForCausalLM": {**TEXT, "num_key_value_heads": 1, "head_dim": 10, **TOKENS},
    "LlamaForCausalLM": {**TEXT, "num_key_value_heads": 1, **TOKENS},
    "GPT2LMHeadModel": {"n_embd": 24, "n_layer": 3, "n_head": 2, "vocab_size": 99, "n_positions": 17},
}
_NOT_IN_SHAPES = {"num_attention_heads", "n_head", "num_key_value_heads", *TOKENS}
_ROTARY = {"Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"}
"""Classes that have no table of positions."""


def make(name: str) -> Any:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**MODELS[name]))


def saved(model: Any, folder: Path) -> dict[str, tuple[int, ...]]:
    model.save_pretrained(folder)
    with open_checkpoint(folder / "model.safetensors") as stored:
        return {name: tuple(tensor.shape) for name, tensor in stored.tensors.items()}


def asked(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config shows in shapes."""
    return {
        key: asked(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _NOT_IN_SHAPES
    }


def within(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Of settings, those that a config names."""
    return {
        key: within(settings[key], value) if isinstance(value, Mapping) else settings.get(key)
        for key, value in config.items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_saved_model_when_identified_then_its_class_and_sizes_are_told(name: str, tmp_path: Path) -> None:
    found = identify(saved(make(name), tmp_path))
    assert found.exact
    best = next(candidate for candidate in found.candidates if candidate.name == name)
    assert best.library == "transformers"
    told = {key: value for key, value in asked(MODELS[name]).items() if name not in _ROTARY or "position" not in key}
    assert within(best.settings, told) == told


@pytest.mark.parametrize("name", MODELS)
def test_state_dict_of_a_module_when_identified_then_its_class_is_told(name: str) -> None:
    shapes = {each: tuple(tensor.shape) for each, tensor in make(name).state_dict().items()}
    found = identify(shapes)
    assert found.exact
    assert name in {candidate.name for candidate in found.candidates}


def test_classes_of_one_form_when_identified_then_both_are_named() -> None:
    shapes = {each: tuple(tensor.shape) for each, tensor in make("BertModel").state_dict().items()}
    found = identify(shapes)
    assert [candidate.name for candidate in found.candidates] == ["BertModel", "RobertaModel"]
    assert found.untold == (
        "The weights are the same for BertModel and RobertaModel; which it is, names and shapes do not tell.",
    )


def test_file_of_an_older_version_when_identified_then_old_names_do_not_count() -> None:
    shapes = {f"vision_model.{each}": tuple(t.shape) for each, t in make("CLIPVisionModel").state_dict().items()}
    found = identify({**shapes, "vision_model.embeddings.position_ids": (1, 10)})
    assert [candidate.name for candidate in found.candidates] == ["CLIPVisionModel"]
    assert found.exact


def test_clip_without_text_tower_when_identified_then_an_image_class_is_nearest() -> None:
    shapes = {each: tuple(t.shape) for each, t in make("CLIPModel").state_dict().items()}
    found = identify({each: shape for each, shape in shapes.items() if not each.startswith("text")})
    assert not found.exact
    names = {candidate.name: candidate for candidate in found.candidates}
    assert names["CLIPVisionModelWithProjection"].fit.unexpected == ("logit_scale",)
    assert names["CLIPModel"].absent_roles == ("text_tower", "text_projection")


def test_classifier_of_other_sizes_when_one_tensor_is_reshaped_then_it_is_told(tmp_path: Path) -> None:
    shapes = saved(make("ViTForImageClassification"), tmp_path)
    found = identify({**shapes, "vit.encoder.layer.1.output.dense.weight": (32, 47)})
    assert found.candidates[0].name == "ViTForImageClassification"
    assert dict(found.candidates[0].fit.reshaped) == {"vit.encoder.layer.1.output.dense.weight": ((32, 47), (32, 48))}


def test_templates_have_the_classes_that_they_are_made_of(generator: Any) -> None:
    assert {template.name for template in templates()} == {kind.name for kind in generator.KINDS}


@pytest.mark.parametrize("name", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_tied_file_when_its_names_begin_as_a_wrappers_then_they_are_the_models_own(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name)
    kind(kind.config_class(**MODELS[name], tie_word_embeddings=True)).save_pretrained(tmp_path)
    with open_checkpoint(tmp_path / "model.safetensors") as stored:
        shapes = {each: tuple(tensor.shape) for each, tensor in stored.tensors.items()}
        found = identify(shapes, prefix_removed=stored.prefix)
        assert stored.prefix == found.put_back == "model."
    best = found.candidates[0]
    assert (best.name, best.exact, best.absent_roles) == (name, True, ())
    assert best.once_more == {"lm_head.weight": "model.embed_tokens.weight"}
    assert set(best.stored.values()) == shapes.keys()
    assert identify(shapes).candidates[0].name == name.replace("ForCausalLM", "Model")


@pytest.mark.parametrize("kept", ["transformer.wte.weight", "lm_head.weight"])
def test_tied_tensor_when_under_either_of_its_names_then_nothing_is_missing(kept: str) -> None:
    shapes = {each: tuple(tensor.shape) for each, tensor in make("GPT2LMHeadModel").state_dict().items()}
    left = {"transformer.wte.weight", "lm_head.weight"} - {kept}
    best = identify({each: shape for each, shape in shapes.items() if each not in left}).candidates[0]
    assert (best.name, best.exact, best.absent_roles) == ("GPT2LMHeadModel", True, ())
    expected = {"transformer.wte.weight": "lm_head.weight"} if kept == "lm_head.weight" else {}
    assert best.under_other_name == expected
    neither = identify({each: shape for each, shape in shapes.items() if each not in {*left, kept}})
    assert not neither.exact


def test_class_when_it_shares_the_names_of_a_known_one_then_it_is_no_damaged_file() -> None:
    olmo = transformers.Olmo2ForCausalLM(transformers.Olmo2Config(**TEXT, **TOKENS))
    best = identify({each: tuple(tensor.shape) for each, tensor in olmo.state_dict().items()}).candidates[0]
    assert not best.exact
    assert best.formed_otherwise
    shapes = {each: tuple(tensor.shape) for each, tensor in make("Qwen2ForCausalLM").state_dict().items()}
    shapes.pop("model.layers.1.self_attn.q_proj.weight")
    best = identify({**shapes, "odd.3.weight": (2,)}).candidates[0]
    assert best.fit.missing == ("model.layers.1.self_attn.q_proj.weight",)
    assert not best.formed_otherwise

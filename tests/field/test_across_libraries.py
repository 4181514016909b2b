"""A conversion judged: a model of one library held to the record of another, and two checkpoints of two libraries."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

import manifest

SAME = "the same function as this CLIPModel of transformers: image_features, text_features, logits within"
BLOCK = {
    "ln_1.weight": "layer_norm1.weight", "ln_1.bias": "layer_norm1.bias",
    "ln_2.weight": "layer_norm2.weight", "ln_2.bias": "layer_norm2.bias",
    "mlp.c_fc.weight": "mlp.fc1.weight", "mlp.c_fc.bias": "mlp.fc1.bias",
    "mlp.c_proj.weight": "mlp.fc2.weight", "mlp.c_proj.bias": "mlp.fc2.bias",
    "attn.out_proj.weight": "self_attn.out_proj.weight", "attn.out_proj.bias": "self_attn.out_proj.bias",
}  # fmt: skip
OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight", "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight", "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}  # fmt: skip


def converted(state: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """The weights of a CLIP of open_clip by the names of transformers, as conversion scripts write them."""
    found = {other: state[name] for name, other in OUTSIDE.items()}
    found["visual_projection.weight"] = state["visual.proj"].T
    found["text_projection.weight"] = state["text_projection"].T
    for name, value in state.items():
        tower, _, rest = name.partition("transformer.resblocks.")
        number, _, part = rest.partition(".")
        place = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
        if part in BLOCK:
            found[f"{place}.{BLOCK[part]}"] = value
        elif part.startswith("attn.in_proj_"):
            for letter, third in zip("qkv", value.split(width), strict=True):
                found[f"{place}.self_attn.{letter}_proj.{part.removeprefix('attn.in_proj_')}"] = third
    return found


def of_transformers(state: dict[str, torch.Tensor], *, act: str = "quick_gelu") -> Any:
    """The digits CLIP as a model of transformers."""
    part = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "hidden_act": act}
    text = {**part, "num_hidden_layers": 2, "max_position_embeddings": 8, "vocab_size": 49408, "eos_token_id": 49407}
    vision = {**part, "num_hidden_layers": 4, "image_size": 32, "patch_size": 8}
    model: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))
    model.load_state_dict(converted(state, 64))
    return model.eval()


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("across") / "digits.pt"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path, floor="none")
    return path


def golden_of(report: Any) -> Any:
    return next(rung for rung in report.rungs if rung.name in ("golden", "outputs"))


def test_compare_when_a_conversion_is_right_then_it_is_the_same_function(saved: Path, digits_model: Any) -> None:
    report = manifest.compare(of_transformers(digits_model.state_dict()), saved)
    assert report.exit_code == 0
    assert golden_of(report).reason.startswith(SAME)


def swapped(model: Any) -> None:
    attention = model.vision_model.encoder.layers[1].self_attn
    attention.q_proj.weight.data, attention.v_proj.weight.data = (
        attention.v_proj.weight.data,
        attention.q_proj.weight.data,
    )


def untransposed(model: Any) -> None:
    model.visual_projection.weight.data = model.visual_projection.weight.data.T.contiguous()


WRONG: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "another activation": (
        "gelu",
        lambda _: None,
        "the first block to depart is visual.transformer.resblocks.0 (vision_model.encoder.layers.0)",
    ),
    "queries and values swapped": (
        "quick_gelu",
        swapped,
        "first block to depart is visual.transformer.resblocks.1 (vision_model.encoder.layers.1)",
    ),
    "a projection not transposed": (
        "quick_gelu",
        untransposed,
        "no block departs, so what differs comes before or after",
    ),
    "another scale": (
        "quick_gelu",
        lambda model: model.logit_scale.data.add_(1),
        "another function than the recorded model: logits differs by",
    ),
}


@pytest.mark.parametrize("situation", WRONG)
def test_compare_when_a_conversion_is_wrong_then_says_where(situation: str, saved: Path, digits_model: Any) -> None:
    act, change, words = WRONG[situation]
    model = of_transformers(digits_model.state_dict(), act=act)
    change(model)
    report = manifest.compare(model, saved)
    (found,) = golden_of(report).findings
    assert (report.exit_code, found.rule) == (1, "G001")
    assert words in found.message


def test_compare_when_the_record_is_of_transformers_then_open_clip_is_held_to_it(
    digits_model: Any, tmp_path: Path
) -> None:
    manifest.save(of_transformers(digits_model.state_dict()), tmp_path / "hf.safetensors", floor="none")
    report = manifest.compare(digits_model, tmp_path / "hf.safetensors")
    assert golden_of(report).reason.startswith("the same function as this CLIP of open_clip: image_features")


def test_diff_when_two_libraries_hold_the_same_function_then_outputs_say_so(
    saved: Path, digits_model: Any, tmp_path: Path
) -> None:
    manifest.save(of_transformers(digits_model.state_dict()), tmp_path / "hf.safetensors", floor="none")
    assert golden_of(manifest.diff(saved, tmp_path / "hf.safetensors", outputs=True)).reason.startswith(SAME)


def test_compare_when_a_tower_of_timm_is_in_both_then_its_features_are_the_same(tmp_path: Path) -> None:
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "none", "image_size": 160}
    text = {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    (tmp_path / "timm-in-a-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "timm-in-a-clip.json")
    torch.manual_seed(0)
    model: Any = open_clip.create_model("timm-in-a-clip").eval()
    manifest.save(model, tmp_path / "clip.pt", golden=False)
    tower = timm.create_model("test_vit", num_classes=0, global_pool="token").eval()
    tower.load_state_dict(model.visual.trunk.state_dict())
    report = manifest.compare(tower, tmp_path / "clip.pt")
    assert golden_of(report).reason.startswith("the same function as this VisionTransformer of timm: image_features")


def test_compare_when_the_other_model_takes_other_inputs_then_it_cannot_be_told(saved: Path) -> None:
    report = manifest.compare(timm.create_model("test_vit").eval(), saved)
    assert (report.exit_code, golden_of(report).findings[0].rule) == (2, "G007")
    net = nn.Sequential(nn.Linear(2, 2))
    assert manifest.compare(net, saved).exit_code == 2

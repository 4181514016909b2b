"""Weights loaded into another model than their manifest records, by any road, while a script is recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import nn
from torchvision.models import get_model
from transformers import CLIPConfig, CLIPModel

import manifest
from manifest.errors import CreationMismatchError


def saved(model: nn.Module, path: Path) -> Path:
    manifest.save(model, path, golden=False, floor="none")
    return path


def by_open_clip(path: Path) -> nn.Module:
    model: nn.Module = open_clip.create_model("digits-gelu", pretrained=str(path))
    return model


def by_timm(path: Path) -> nn.Module:
    model: nn.Module = timm.create_model("test_vit", checkpoint_path=str(path))
    return model


def by_hand(path: Path) -> nn.Module:
    model = timm.create_model("test_vit")
    model.load_state_dict(torch.load(path))
    return model


def by_torchvision(path: Path) -> nn.Module:
    model: nn.Module = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None)
    model.load_state_dict(torch.load(path))
    return model


@pytest.fixture(scope="module")
def files(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("loads")
    config = (digits.HERE / "digits-clip.json").read_text()
    (place / "digits-gelu.json").write_text(config.replace('"quick_gelu": true', '"quick_gelu": false'))
    open_clip.add_model_config(place / "digits-gelu.json")
    torch.manual_seed(0)
    detector = get_model("retinanet_resnet50_fpn", weights=None, weights_backbone=None, score_thresh=0.6)
    return {
        "open_clip": saved(manifest.load(digits.WEIGHTS, verify="none"), place / "clip.pt"),
        "timm": saved(timm.create_model("test_vit", act_layer="quick_gelu"), place / "vit.pt"),
        "torchvision": saved(detector, place / "detector.pt"),
        "the same": saved(timm.create_model("test_vit"), place / "same.pt"),
    }


ROWS: dict[str, tuple[str, Callable[[Path], nn.Module], str | None]] = {
    # Situation: the file, how it is loaded, and what is said.
    "open_clip by path": ("open_clip", by_open_clip, "force_quick_gelu=True"),
    "timm by checkpoint_path": ("timm", by_timm, "and the weights were saved with model 6 × QuickGELU"),
    "timm by load_state_dict": ("timm", by_hand, "and the weights were saved with model 6 × QuickGELU"),
    "a detector with another threshold": ("torchvision", by_torchvision, "score_thresh"),
    "the same model": ("the same", by_hand, None),
}


@pytest.mark.parametrize("situation", ROWS)
def test_load_when_recorded_and_the_model_is_another_then_says_so(situation: str, files: dict[str, Path]) -> None:
    file, load, words = ROWS[situation]
    with warnings.catch_warnings(record=True) as caught, manifest.recording():
        warnings.simplefilter("always")
        load(files[file])
    said = [str(each.message) for each in caught if "another model than its manifest records" in str(each.message)]
    assert len(said) == (1 if words else 0), said
    assert words is None or words in said[0]


def test_load_when_strict_then_raises(files: dict[str, Path]) -> None:
    with pytest.raises(CreationMismatchError, match="QuickGELU"), manifest.recording(strict=True):
        by_timm(files["timm"])


def test_load_when_nothing_is_recorded_then_nothing_is_said(files: dict[str, Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_timm(files["timm"])


def test_from_pretrained_when_recorded_and_the_activation_is_another_then_says_so(tmp_path: Path) -> None:
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**part, "vocab_size": 500, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 16}, projection_dim=16)
    CLIPModel(config).eval().save_pretrained(tmp_path)
    partial = ["vision_tower", "text_tower", "vision_projection", "text_projection", "logit_scale"]
    manifest.create(tmp_path, str(tmp_path), family="transformers", golden=False, partial=partial)
    other = CLIPConfig.from_pretrained(tmp_path)
    other.vision_config.hidden_act = other.text_config.hidden_act = "gelu"
    for config, words in ((None, False), (other, True)):
        with warnings.catch_warnings(record=True) as caught, manifest.recording():
            warnings.simplefilter("always")
            model = CLIPModel.from_pretrained(tmp_path, **({} if config is None else {"config": config}))
        said = [str(each.message) for each in caught if "another model than its manifest records" in str(each.message)]
        assert isinstance(model, CLIPModel)
        assert len(said) == int(words), said
        assert not words or "QuickGELU" in said[0]

"""Weights asked for in another architecture than they were saved in: every road to them refuses, and says the cure."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import manifest
from manifest.errors import CreationMismatchError

Road = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with QuickGELU, which is not its name's own activation, with its manifest."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("refusals") / "quick.pth"
    manifest.save(manifest.timm.create_model("test_vit", num_classes=3, act_layer="quick_gelu"), path, golden=False)
    return path


def by_path(path: Path, **arguments: Any) -> nn.Module:
    return manifest.timm.create_model("test_vit", num_classes=3, checkpoint_path=str(path), **arguments)


def by_family(path: Path, **arguments: Any) -> nn.Module:
    return manifest.create_model("test_vit", family="timm", num_classes=3, checkpoint_path=str(path), **arguments)


def by_overlay(path: Path, **arguments: Any) -> nn.Module:
    overlay = {"file": str(path)}
    return manifest.timm.create_model(
        "test_vit", num_classes=3, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
    )


ROADS = {"timm's name": by_path, "a family's name": by_family, "timm's overlay": by_overlay}


@pytest.mark.parametrize("road", ROADS)
def test_weights_when_asked_for_with_another_activation_then_are_refused(road: str, quick: Path) -> None:
    with pytest.raises(CreationMismatchError) as caught:
        ROADS[road](quick)
    said = str(caught.value)
    assert "would be built with model 6 × GELU, and the weights were saved with model 6 × QuickGELU (A001)" in said
    assert said.endswith("take everything from there with on_mismatch='follow'.")


@pytest.mark.parametrize("road", ROADS)
def test_weights_when_told_to_follow_then_are_built_as_saved(road: str, quick: Path) -> None:
    images = torch.randn(1, 3, 160, 160)
    found, saved = ROADS[road](quick, on_mismatch="follow"), manifest.load(quick)
    assert torch.equal(found.eval()(images), saved.eval()(images))


@pytest.mark.parametrize("road", ROADS)
def test_weights_when_asked_for_as_they_were_saved_then_are_loaded(road: str, quick: Path) -> None:
    found = ROADS[road](quick, act_layer="quick_gelu")
    assert torch.equal(found.state_dict()["cls_token"], manifest.load(quick).state_dict()["cls_token"])


def test_weights_without_a_manifest_when_asked_for_then_are_loaded(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "bare.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert by_path(tmp_path / "bare.pth") is not None

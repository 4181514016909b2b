"""`create_model` by tag and by position; by path it is in `tests/acceptance/test_create_model.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import manifest
from manifest.errors import CreationMismatchError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No way to any server, and an empty cache."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("ViT-B-32-quickgelu", {}), ("ViT-B-32", {"force_quick_gelu": True})],
    ids=["by-name", "by-flag"],
)
def test_tag_asked_for_rightly_is_left_to_the_library(name: str, arguments: dict[str, Any], offline: Path) -> None:
    with pytest.raises(Exception) as caught:
        manifest.create_model(name, "openai", cache_dir=str(offline), **arguments)
    assert "download" in str(caught.value) or "Hub" in str(caught.value)
    assert not isinstance(caught.value, manifest.errors.ManifestError)


def test_tag_asked_for_wrongly_leaves_the_cache_untouched(offline: Path) -> None:
    with pytest.raises(CreationMismatchError, match="force_quick_gelu=True") as caught:
        manifest.create_model("ViT-B-32", "openai", cache_dir=str(offline))
    assert caught.value.exit_code == 1
    assert not offline.exists()


def test_arguments_by_position_are_those_of_open_clip(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    manifest.save(digits_model, path, golden=False)
    model: Any = manifest.create_model(digits.MODEL, str(path), True, "bf16")
    assert model.visual.transformer.resblocks[0].mlp.c_fc.weight.dtype is torch.bfloat16
    both, _, _ = manifest.create_model_and_transforms(digits.MODEL, str(path), True, "fp32")
    assert torch.equal(both.visual.proj, digits_model.visual.proj)


def test_other_image_size_is_refused_with_its_cure(digits: Any, tmp_path: Path) -> None:
    manifest.save(manifest.create_model(digits.MODEL, force_image_size=48), tmp_path / "ckpt.pt", golden=False)
    with pytest.raises(CreationMismatchError, match=r"image_size would be 32.*force_image_size=48"):
        manifest.create_model(digits.MODEL, str(tmp_path / "ckpt.pt"))
    cured: Any = manifest.create_model(digits.MODEL, str(tmp_path / "ckpt.pt"), force_image_size=48)
    assert cured.visual.image_size in (48, (48, 48))


def test_image_size_told_to_follow_is_that_of_the_manifest(digits: Any, tmp_path: Path) -> None:
    manifest.save(manifest.create_model(digits.MODEL, force_image_size=48), tmp_path / "ckpt.pt", golden=False)
    model: Any = manifest.create_model(digits.MODEL, str(tmp_path / "ckpt.pt"), on_mismatch="follow")
    assert model.visual.image_size in (48, (48, 48))
    assert model.training

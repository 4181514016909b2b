"""How often a model is built: once to prove that it can be, and once more for each model that it is told apart from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import manifest
from manifest.families.open_clip.adapter import OpenClip
from manifest.families.timm.adapter import Timm
from manifest.training.recording import recording


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the models that are built, as they are."""
    names: list[str] = []
    for adapter in (OpenClip, Timm):
        construct = adapter.construct

        def noted(self: Any, draft: Any, construct: Any = construct) -> Any:
            names.append(draft.name)
            return construct(self, draft)

        monkeypatch.setattr(adapter, "construct", noted)
    return names


@pytest.mark.parametrize(("golden", "builds"), [(False, 1), (True, 2)])
def test_save_builds_once_to_prove_and_once_for_the_contrast(
    digits_model: Any, tmp_path: Path, built: list[str], golden: bool, builds: int
) -> None:
    built.clear()
    manifest.save(digits_model, tmp_path / "a.pt", golden=golden)
    assert len(built) == builds


def test_save_when_no_variant_is_known_then_builds_once(tmp_path: Path, built: list[str]) -> None:
    manifest.save(trained("test_resnet"), tmp_path / "a.pt")
    assert len(built) == 1


def test_create_builds_once(digits_model: Any, digits: Any, tmp_path: Path, built: list[str]) -> None:
    torch.save(digits_model.state_dict(), tmp_path / "a.pt")
    built.clear()
    manifest.create(tmp_path / "a.pt", digits.MODEL, golden=False)
    assert len(built) == 1


def test_recording_builds_once_for_many_saves_and_once_for_each_contrast(tmp_path: Path, built: list[str]) -> None:
    model = trained("test_vit")  # of which the quick GELU is a contrast
    with recording(golden="every", floor="none"):
        torch.save(model.state_dict(), tmp_path / "a.pt")
        torch.save({"model": model.state_dict(), "epoch": 1}, tmp_path / "b.pt")
    assert len(built) == 1 + 2


def test_verify_builds_once_and_once_for_the_contrast(digits_model: Any, tmp_path: Path, built: list[str]) -> None:
    manifest.save(digits_model, tmp_path / "a.pt")
    built.clear()
    assert manifest.verify(tmp_path / "a.pt").passed
    assert len(built) == 2


def trained(name: str) -> Any:
    """A small model with a step behind it."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 160, 160)).square().mean().backward()
    optimizer.step()
    return model

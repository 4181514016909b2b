"""P2: a tower that was never there: missing from the file, or fresh from its initialiser with every key in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import manifest
from manifest.errors import ArchitectureError, IncompleteModelError
from manifest.schema.vocabulary import Status, Training
from manifest.storage.transaction import read_manifest

TEXT = ["text_tower", "text_projection"]


def weights(digits: Any) -> dict[str, torch.Tensor]:
    return load_file(digits.WEIGHTS)


def is_text(digits: Any, name: str) -> bool:
    return name.startswith(digits.TEXT_TOWER)


def with_fresh_text_tower(digits: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    fresh = open_clip.create_model(digits.MODEL).state_dict()
    return {name: fresh[name] if is_text(digits, name) else kept for name, kept in weights(digits).items()}


def built(digits: Any, state: dict[str, torch.Tensor]) -> Any:
    model = open_clip.create_model(digits.MODEL)
    model.load_state_dict(state)
    return model


def vision_only(digits: Any, path: Path) -> Path:
    """A file with everything but the text tower and its projection."""
    save_file({name: value for name, value in weights(digits).items() if not is_text(digits, name)}, path)
    return path


def test_library_given_a_vision_tower_for_a_clip_leaves_the_text_tower_random(
    digits: Any, accuracy: Any, tmp_path: Path
) -> None:
    visual = {name.removeprefix("visual."): v for name, v in weights(digits).items() if name.startswith("visual.")}
    save_file(visual, tmp_path / "vision.safetensors")
    torch.manual_seed(0)
    model = open_clip.create_model(digits.MODEL, pretrained_image_path=str(tmp_path / "vision.safetensors"))
    whole = built(digits, weights(digits))
    assert torch.equal(model.visual.proj, whole.visual.proj)
    assert accuracy(whole) > 0.95
    assert accuracy(model) < 0.5


def test_create_when_the_text_tower_is_missing_is_refused(digits: Any, tmp_path: Path) -> None:
    path = vision_only(digits, tmp_path / "half.safetensors")
    with pytest.raises(IncompleteModelError, match=r"text tower is not in half\.safetensors: none of its 28 tensors"):
        manifest.create(path, digits.MODEL)
    assert sorted(tmp_path.iterdir()) == [path]


def test_create_when_the_text_tower_is_absent_by_design_says_so_and_verifies(digits: Any, tmp_path: Path) -> None:
    path = vision_only(digits, tmp_path / "half.safetensors")
    manifest.create(path, digits.MODEL, partial=TEXT)
    absent = {part.role for part in read_manifest(path).components if part.status is Status.ABSENT}
    report = manifest.verify(path)
    assert absent == set(TEXT)
    assert report.exit_code == 0
    assert "by design without a trained text tower" in next(r for r in report.rungs if r.name == "completeness").reason


def test_load_of_a_tower_absent_by_design_warns_that_it_is_empty(digits: Any, tmp_path: Path) -> None:
    path = vision_only(digits, tmp_path / "half.safetensors")
    manifest.create(path, digits.MODEL, partial=TEXT)
    with pytest.warns(UserWarning, match="text tower"):
        model = manifest.load(path)
    assert torch.equal(model.visual.proj, weights(digits)["visual.proj"])


def test_create_when_one_layer_is_missing_is_refused_by_name(digits: Any, tmp_path: Path) -> None:
    lost = "transformer.resblocks.1.ln_2.bias"
    save_file({name: v for name, v in weights(digits).items() if name != lost}, tmp_path / "holed.safetensors")
    with pytest.raises(IncompleteModelError, match=f"text tower has 27 of 28 tensors; {lost} is missing"):
        manifest.create(tmp_path / "holed.safetensors", digits.MODEL)


def test_save_when_the_text_tower_is_fresh_is_refused(digits: Any, tmp_path: Path) -> None:
    with pytest.raises(IncompleteModelError, match="text tower was never trained") as caught:
        manifest.save(built(digits, with_fresh_text_tower(digits)), tmp_path / "half.pt")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_create_when_every_key_is_there_and_the_text_tower_is_fresh_is_refused(
    digits: Any, accuracy: Any, tmp_path: Path
) -> None:
    state = with_fresh_text_tower(digits)
    torch.save(state, tmp_path / "half.pt")
    assert accuracy(built(digits, state)) < 0.5
    with pytest.raises(IncompleteModelError, match="text tower was never trained"):
        manifest.create(tmp_path / "half.pt", digits.MODEL)


def test_save_when_the_vision_tower_is_fresh_is_refused(digits: Any, tmp_path: Path) -> None:
    fresh = open_clip.create_model(digits.MODEL).state_dict()
    state = {name: fresh[name] if name.startswith("visual.") else v for name, v in weights(digits).items()}
    with pytest.raises(IncompleteModelError, match="vision tower was never trained"):
        manifest.save(built(digits, state), tmp_path / "half.pt")


def test_save_when_the_fresh_text_tower_is_meant_records_it(digits: Any, tmp_path: Path) -> None:
    recorded = manifest.save(built(digits, with_fresh_text_tower(digits)), tmp_path / "half.pt", partial=TEXT)
    text = next(part for part in recorded.components if part.role == "text_tower")
    assert (text.by_design, text.training) == (True, Training.INITIALISED)
    assert manifest.verify(tmp_path / "half.pt").exit_code == 0


def test_verify_when_the_text_tower_was_replaced_afterwards_fails(digits: Any, tmp_path: Path) -> None:
    path = tmp_path / "digits.safetensors"
    manifest.save(built(digits, weights(digits)), path)
    save_file(with_fresh_text_tower(digits), path, metadata={"format": "pt"})
    report = manifest.verify(path)
    found = {(item.rule, item.where) for item in report.findings()}
    assert report.exit_code == 1
    assert {("I002", "text_tower"), ("C003", "text_tower")} <= found
    assert ("C003", "vision_tower") not in found


def test_the_trained_model_is_never_called_initialised(digits: Any) -> None:
    training = {part.role: part.training for part in read_manifest(digits.WEIGHTS).components}
    assert training["vision_tower"] is Training.TRAINED
    assert training["text_tower"] is Training.TRAINED
    assert Training.INITIALISED not in training.values()


def test_a_model_random_throughout_is_noted_and_not_refused(digits: Any, tmp_path: Path) -> None:
    manifest.save(open_clip.create_model(digits.MODEL), tmp_path / "fresh.pt")
    report = manifest.verify(tmp_path / "fresh.pt")
    assert report.exit_code == 0
    assert {(item.rule, item.severity.value) for item in report.findings() if item.rule == "C003"} == {("C003", "note")}


def test_timm_vision_tower_given_for_a_vit_b_16_clip_is_refused(tmp_path: Path) -> None:
    """The file of the story: timm's own names, and no text tower."""
    trunk = timm.create_model("vit_base_patch16_clip_224.openai", pretrained=False)
    save_file(trunk.state_dict(), tmp_path / "timm.safetensors")
    with pytest.raises(ArchitectureError, match=r"not those of a ViT-B-16 .*unexpected"):
        manifest.create(tmp_path / "timm.safetensors", "ViT-B-16", golden=False)


def test_open_clip_vision_tower_of_full_size_given_for_a_vit_b_16_clip_is_refused(tmp_path: Path) -> None:
    """The same half under open_clip's names: ViT-B-16 with its vision tower alone."""
    model = open_clip.create_model("ViT-B-16")
    visual = {name: value for name, value in model.state_dict().items() if name.startswith("visual.")}
    save_file(visual, tmp_path / "half.safetensors")
    with pytest.raises(IncompleteModelError, match=r"text tower is not in half\.safetensors: none of its 148 tensors"):
        manifest.create(tmp_path / "half.safetensors", "ViT-B-16", golden=False)


def test_timm_vision_tower_is_captured_as_what_it_is(tmp_path: Path) -> None:
    """The file of the story once more, under its own name: a vision tower and its projection, and nothing else."""
    trunk = timm.create_model("vit_base_patch16_clip_224.openai", pretrained=False)
    recorded = manifest.save(trunk, tmp_path / "timm.safetensors", golden=False)
    assert recorded.architecture.family == "timm"
    assert recorded.architecture.name == "vit_base_patch16_clip_224.openai"
    assert {part.role: part.status for part in recorded.components} == {
        "vision_tower": Status.COMPLETE,
        "vision_projection": Status.COMPLETE,
    }

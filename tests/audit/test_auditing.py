"""Auditing weights without a manifest: P2 both ways, what is claimed of a file, and many files at once."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file

import manifest
from manifest.schema.report import Report
from manifest.schema.vocabulary import Training

Run = Callable[..., Any]
TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")


def rules(report: Report) -> list[str]:
    return [found.rule for found in report.findings() if found.rule not in {"A010", "A011"}]


def message(report: Report, rule: str) -> str:
    return next(found.message for found in report.findings() if found.rule == rule)


def reason(report: Report, rung: str) -> str:
    return next(each.reason for each in report.rungs if each.name == rung)


def training(report: Report) -> dict[str, Training]:
    return {part.role: part.training for part in report.components}


@pytest.fixture(scope="session")
def fresh() -> dict[str, torch.Tensor]:
    """The full-size ViT-B-16 as its initialiser leaves it."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return dict(open_clip.create_model("ViT-B-16").state_dict())


@pytest.fixture(scope="session")
def trained() -> dict[str, torch.Tensor]:
    """The full-size ViT-B-16 after a real step on noise, by which all of its norms have moved."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model: Any = open_clip.create_model("ViT-B-16").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
        images, texts, scale = model(torch.randn(1, 3, 224, 224), torch.randint(1, 49000, (2, 77)))[:3]
        logits = scale * images @ texts.T
        torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.long)).backward()
        optimizer.step()
    return {name: value.detach() for name, value in model.state_dict().items()}


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return path


def mixed(text: dict[str, torch.Tensor], rest: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: text[name] if name.startswith(TEXT) else value for name, value in rest.items()}


def test_audit_of_a_whole_clip_names_it_and_its_twin_and_finds_nothing_wrong(
    trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    report = manifest.audit(saved(trained, tmp_path / "clip.safetensors"))
    assert report.exit_code == 0
    assert reason(report, "identity") == "open_clip ViT-B-16 or ViT-B-16-quickgelu"
    assert "which differ in the activation" in message(report, "A011")
    assert not rules(report)
    assert Training.INITIALISED not in training(report).values()


def test_audit_of_a_vision_tower_from_timm_says_what_it_is(tmp_path: Path) -> None:
    model = timm.create_model("vit_base_patch16_clip_224", num_classes=512)
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    report = manifest.audit(saved(model.state_dict(), tmp_path / "vision.safetensors"))
    assert reason(report, "identity") == "timm vit_base_patch16_clip_quickgelu_224"
    assert "is the vision tower alone of a CLIP" in message(report, "A011")
    claimed = manifest.audit(tmp_path / "vision.safetensors", claimed="open_clip:ViT-B-16")
    assert claimed.exit_code == 1
    assert "C001" in rules(claimed)


def test_architecture_that_nothing_fits_is_not_said_to_fit(digits: Any) -> None:
    report = manifest.audit(digits.WEIGHTS)
    assert "is no architecture" in message(report, "A010")
    assert "A011" not in {found.rule for found in report.findings()}


def test_audit_of_a_clip_without_text_tower_says_so_unless_it_is_meant(
    trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    vision = {name: value for name, value in trained.items() if not name.startswith(TEXT)}
    path = saved(vision, tmp_path / "half.safetensors")
    report = manifest.audit(path)
    assert report.exit_code == 1
    assert "The text tower of open_clip ViT-B-16 is not in half.safetensors: none of its" in message(report, "C001")
    remedy = next(found.remedy for found in report.findings() if found.rule == "C001")
    meant = manifest.audit(path, only=remedy.partition("--only ")[2].rstrip("`.").split(","))
    assert meant.exit_code == 0
    assert "by design without text tower, text projection" in reason(meant, "completeness")


def test_audit_of_a_whole_file_with_a_fresh_text_tower_finds_it(
    fresh: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    report = manifest.audit(saved(mixed(fresh, trained), tmp_path / "a.safetensors"))
    verdicts = training(report)
    assert report.exit_code == 1
    assert verdicts["text_tower"] is Training.INITIALISED
    assert verdicts["vision_tower"] is Training.TRAINED
    assert "The text tower was never trained, and other parts were" in message(report, "C003")


def test_audit_of_a_whole_file_with_a_fresh_vision_tower_finds_it(
    fresh: dict[str, torch.Tensor], trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    verdicts = training(manifest.audit(saved(mixed(trained, fresh), tmp_path / "a.safetensors")))
    assert verdicts["vision_tower"] is Training.INITIALISED
    assert verdicts["text_tower"] is Training.TRAINED


def test_audit_of_what_was_never_trained_is_an_error(fresh: dict[str, torch.Tensor], tmp_path: Path) -> None:
    report = manifest.audit(saved(fresh, tmp_path / "a.safetensors"))
    assert report.exit_code == 1
    assert "No part of the weights was ever trained" in message(report, "C003")


def test_audit_of_a_partial_text_tower_and_a_missing_projection_lists_them(
    trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    gone = ("transformer.resblocks.10.", "transformer.resblocks.11.", "visual.proj")
    part = {name: value for name, value in trained.items() if not name.startswith(gone)}
    report = manifest.audit(saved(part, tmp_path / "a.safetensors"))
    assert "transformer.resblocks.{10..11}" in message(report, "C002")
    assert "The vision projection of open_clip ViT-B-16 is not in" in message(report, "C001")


def test_digits_clip_with_a_fresh_text_tower_is_found_without_being_known(digits: Any, tmp_path: Path) -> None:
    """Its architecture is in no registry; its tensors are named as those of others are."""
    state = load_file(digits.WEIGHTS)
    whole = manifest.audit(saved(state, tmp_path / "whole.safetensors"))
    assert whole.exit_code == 0
    assert "initialised" not in reason(whole, "numbers")
    torch.manual_seed(0)
    begun = open_clip.create_model(digits.MODEL).state_dict()
    report = manifest.audit(saved(mixed(dict(begun), state), tmp_path / "half.safetensors"))
    assert report.exit_code == 1
    assert "The text tower was never trained, and other parts were" in message(report, "C003")


def test_weights_that_are_odd_are_told_by_name(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    odd = {name: value.clone() for name, value in trained.items()}
    odd["visual.ln_post.bias"][7] = float("nan")
    odd["visual.transformer.resblocks.3.mlp.c_fc.weight"][:] = 0
    odd["transformer.resblocks.5.mlp.c_fc.weight"] = odd["transformer.resblocks.4.mlp.c_fc.weight"].clone()
    report = manifest.audit(saved(odd, tmp_path / "odd.safetensors"))
    assert {"C006", "C007", "C008"} <= set(rules(report))
    assert "visual.ln_post.bias has 1 NaN" in message(report, "C006")


def test_tag_that_needs_quick_gelu_contradicts_a_config_that_lacks_it(
    trained: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = saved(trained, tmp_path / "open_clip_pytorch_model.safetensors")
    report = manifest.audit(path, claimed="open_clip:ViT-B-16/openai")
    assert "openai of ViT-B-16 were trained with QuickGELU, and the name" in message(report, "A012")
    assert manifest.audit(path, claimed="open_clip:ViT-B-16-quickgelu/openai").exit_code == 0
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"embed_dim": 512, "quick_gelu": False}}))
    report = manifest.audit(path, claimed="open_clip:ViT-B-16-quickgelu/openai")
    assert "open_clip_config.json beside it builds GELU" in message(report, "A012")


def test_config_beside_a_file_of_something_else_is_a_contradiction(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    path = saved(model.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit"}))
    assert "Config.json beside it says test_vit, and the tensors are exactly those of test_resnet" in message(
        manifest.audit(path), "A012"
    )
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    report = manifest.audit(path)
    assert reason(report, "identity") == "timm test_resnet, as config.json beside it says"
    assert report.exit_code == 0


def test_training_checkpoint_says_what_it_is_in_its_arguments(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet")
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    state = {"state_dict": model.state_dict(), "args": argparse.Namespace(model="test_resnet", lr=0.1)}
    torch.save(state, tmp_path / "last.pth.tar")
    report = manifest.audit(tmp_path / "last.pth.tar")
    assert reason(report, "identity").startswith("timm test_resnet, as its args.model says")
    assert report.safety == "safe"
    torch.save({**state, "arch": "test_vit"}, tmp_path / "other.pth.tar")
    assert "Its arch says test_vit" in message(manifest.audit(tmp_path / "other.pth.tar"), "A012")


def test_file_with_the_digits_of_another_in_its_name_is_not_that(tmp_path: Path) -> None:
    model = torchvision.models.get_model("mobilenet_v2", weights=None)
    for parameter in model.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    torch.save(model.state_dict(), tmp_path / "mobilenet_v2-b0353104.pth")
    assert "The digits in its name are those of IMAGENET1K_V1 of mobilenet_v2, and its SHA-256 is another" in message(
        manifest.audit(tmp_path / "mobilenet_v2-b0353104.pth"), "A012"
    )
    torch.save(model.state_dict(), tmp_path / "model-20261121.pth")
    assert not rules(manifest.audit(tmp_path / "model-20261121.pth"))


def test_what_is_declared_must_make_sense(run: Run, tmp_path: Path) -> None:
    saved({"a.weight": torch.ones(3, 3)}, tmp_path / "a.safetensors")
    assert "expected LIBRARY:NAME" in run("audit", "a.safetensors", "--as", "keras:VGG").complaint
    assert "no library here has" in run("audit", "a.safetensors", "--as", "timm:resnet51").complaint
    assert "--only is arms" in run("audit", "a.safetensors", "--as", "timm:resnet50", "--only", "arms").complaint


def test_many_at_once_are_a_line_each_and_broken_ones_do_not_stop_the_rest(
    digits: Any, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "deep"
    folder.mkdir(parents=True)
    shutil.copy(digits.WEIGHTS, folder / "good.safetensors")
    (folder / "broken.pt").write_bytes(b"PK\x03\x04 and nothing else")
    (folder / "notes.txt").write_text("no checkpoint")
    np.savez(folder / "evil.npz", a=np.zeros(3))
    answer = run("audit", "runs")
    assert answer.code == 1
    assert all(name in answer.out for name in ("good.safetensors", "broken.pt", "evil.npz"))
    assert "notes.txt" not in answer.out
    pattern = run("audit", "runs/**/*.safetensors", "--format", "json")
    assert json.loads(pattern.out)["subject"] == "good.safetensors"
    assert "There is no file nowhere" in run("audit", "nowhere").complaint

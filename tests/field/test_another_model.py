"""A live model that is not the recorded one at all: one sentence on what was recorded, what this is, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import CLIPConfig, CLIPModel

import manifest


@pytest.fixture(scope="module")
def records(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of open_clip and one of timm."""
    place = tmp_path_factory.mktemp("another")
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), place / "clip.pt", floor="none")
    torch.manual_seed(0)
    manifest.save(timm.create_model("test_vit", num_classes=10), place / "vit.pt", floor="none")
    return {"open_clip": place / "clip.pt", "timm": place / "vit.pt"}


def digits_clip(**arguments: Any) -> nn.Module:
    model: nn.Module = open_clip.create_model("digits-clip", **arguments)
    return model.eval()


def of_transformers() -> nn.Module:
    part = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**part, "image_size": 32, "patch_size": 8}
    model: nn.Module = CLIPModel(CLIPConfig(text_config=part, vision_config=vision, projection_dim=64))
    return model.eval()


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it, under the names that PEFT gives."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        adapted: torch.Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + adapted


def with_adapters() -> nn.Module:
    model: Any = digits_clip()
    for block in model.visual.transformer.resblocks:
        block.mlp.c_fc = Adapted(block.mlp.c_fc)
    return model


ROWS: dict[str, tuple[str, Callable[[], nn.Module], int, str, str]] = {
    # Situation: the record, the model, the exit status, words of the message and of the remedy.
    "another image size": (
        "open_clip",
        lambda: digits_clip(force_image_size=64),
        1,
        "and this model is another: its image_size is 64, and is recorded as 32; 1 of its weights have other shapes",
        "with force_image_size=32",
    ),
    "another context length": (
        "open_clip",
        lambda: digits_clip(force_context_length=16),
        1,
        "its context_length is 16, and is recorded as 8",
        "with force_context_length=8",
    ),
    "a larger model": (
        "open_clip",
        lambda: open_clip.create_model("ViT-S-32-alt").eval(),
        1,
        "of its weights have other shapes",
        "`manifest.load(CKPT)`",
    ),
    "a tower alone": (
        "open_clip",
        lambda: digits_clip().visual,  # type: ignore[union-attr, return-value]
        1,
        "this is a part of it, `model.visual`",
        "Pass the whole model.",
    ),
    "adapters that are not merged": (
        "open_clip",
        with_adapters,
        1,
        "has adapters around it that are not merged into its weights",
        "model = model.merge_and_unload()",
    ),
    "another library": (
        "open_clip",
        of_transformers,
        1,
        "This CLIPModel of transformers is another function than the recorded model",
        "look at the block that departs first",
    ),
    "a classifier of another library": (
        "timm",
        lambda: torchvision.models.resnet18().eval(),
        2,
        "The record is of test_vit of timm, and this is torchvision.ResNet",
        "a checkpoint of its own kind",
    ),
    "a network of one's own": (
        "timm",
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
        2,
        "and this is torch.Sequential",
        "a checkpoint of its own kind",
    ),
    "other classes": (
        "timm",
        lambda: timm.create_model("test_vit", num_classes=7).eval(),
        1,
        "num_classes 10 → 7",
        "`manifest.load(CKPT)`",
    ),
}


@pytest.mark.parametrize("situation", ROWS)
def test_model_when_it_is_another_then_one_sentence_says_which(situation: str, records: dict[str, Path]) -> None:
    record, make, code, words, remedy = ROWS[situation]
    report = manifest.compare(make(), records[record])
    (found,) = report.findings()
    assert report.exit_code == code
    assert words in found.message
    assert remedy in found.remedy


def in_bf16(model: Any, record: Path, **arguments: Any) -> Any:
    return manifest.compare(model.bfloat16(), record, **arguments)


def in_fp16(model: Any, record: Path, **arguments: Any) -> Any:
    return manifest.compare(model.half(), record, **arguments)


def under_autocast(model: Any, record: Path, **arguments: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return manifest.compare(model, record, **arguments)


PRECISIONS: dict[str, tuple[Callable[..., Any], str, str]] = {
    # Situation: how it is compared, its precision, what is said of its weights.
    "bf16": (in_bf16, "bf16", "are in another element type and were not compared"),
    "fp16": (in_fp16, "fp16", "are in another element type and were not compared"),
    "autocast": (under_autocast, "amp_bf16", "are the recorded ones"),
}


@pytest.mark.parametrize("situation", PRECISIONS)
def test_model_when_it_runs_in_lower_precision_then_the_report_cannot_tell(
    situation: str, records: dict[str, Path]
) -> None:
    compared, precision, of_weights = PRECISIONS[situation]
    report = compared(manifest.load(records["open_clip"]), records["open_clip"])
    (found,) = report.findings()
    assert (report.exit_code, found.rule) == (2, "G007")
    assert f"of a model in {precision}, and those on record in fp32" in found.message
    helps = compared(manifest.load(records["open_clip"]), records["open_clip"], across_precisions=True).exit_code == 0
    assert helps == ("or pass across_precisions=True (`--across-precisions`)" in found.remedy)
    assert [rung.name for rung in report.rungs] == ["weights", "golden", "integrity"]
    assert of_weights in report.rungs[0].reason


@pytest.mark.parametrize("situation", PRECISIONS)
def test_model_when_it_is_wrong_by_more_than_its_precision_then_it_is_different(
    situation: str, records: dict[str, Path]
) -> None:
    compared, precision, _ = PRECISIONS[situation]
    model: Any = manifest.load(records["open_clip"])
    model.text_projection.data.mul_(-1)
    report = compared(model, records["open_clip"])
    (found,) = next(rung for rung in report.rungs if rung.name == "golden").findings
    assert (report.exit_code, found.rule) == (1, "G001")
    assert (
        f"Its precision, {precision} instead of fp32" in found.message
        or "Its weights are not those on record" in found.message
    )


def test_model_when_it_is_the_recorded_with_other_weights_then_it_is_asked(records: dict[str, Path]) -> None:
    report = manifest.compare(digits_clip(), records["open_clip"])
    assert [rung.name for rung in report.rungs] == ["weights", "golden", "integrity"]
    assert report.exit_code == 1

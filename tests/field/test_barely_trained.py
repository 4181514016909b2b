"""A component that never loaded, and a training that was too short to make up for it: each row a situation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

import manifest
from tests.sampling import sampled

LIVED = 0.02
"""Standard deviation of what is added to weights that are to look like loaded ones."""


def lived(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * LIVED)


def stepped(model: nn.Module, loss: Callable[[], torch.Tensor], steps: int, rate: float, decay: float = 0.0) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    model.eval()


def clip(loaded: str, steps: int, rate: float, decay: float = 0.0) -> nn.Module:
    """A CLIP of which one tower, both or none was loaded, and which was then trained for some steps."""
    torch.manual_seed(0)
    model: Any = open_clip.create_model("ViT-S-32-alt")
    if loaded in {"vision", "both"}:
        lived(model.visual)
    if loaded in {"text", "both"}:
        for part in (model.transformer, model.token_embedding, model.ln_final):
            lived(part)
    images, texts = torch.randn(2, 3, 224, 224), open_clip.tokenize(["a cat", "a dog"])

    def loss() -> torch.Tensor:
        image_features, text_features, scale = model(images, texts)
        return nn.functional.cross_entropy(scale * image_features @ text_features.T, torch.arange(2))

    stepped(model, loss, steps, rate, decay)
    return model


def text_lost(steps: int, rate: float, decay: float = 0.0) -> Callable[[], nn.Module]:
    return lambda: clip("vision", steps, rate, decay)


def classifier(steps: int, rate: float) -> nn.Module:
    """A ViT of timm that never loaded."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10)
    images = torch.randn(2, 3, 224, 224)
    stepped(model, lambda: nn.functional.cross_entropy(model(images), torch.arange(2)), steps, rate)
    return model


def reader(steps: int, rate: float) -> nn.Module:
    """A BERT whose layers never loaded."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model: Any = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, vocab_size=200))
    tokens = torch.randint(3, 200, (2, 16))
    stepped(model, lambda: model(input_ids=tokens, labels=torch.arange(2)).loss, steps, rate)
    return model


ROWS: dict[str, tuple[Callable[[], nn.Module], int, str | None, str]] = {
    # Situation: the model, the exit status of an audit, its rule, and what it says.
    "text tower never loaded, one step at 1e-6": (text_lost(1, 1e-6), 1, "C010", "1 step at a rate of 1e-06"),
    "text tower never loaded, four steps at 1e-5": (text_lost(4, 1e-5), 1, "C010", "text tower was barely"),
    "text tower never loaded, steps with decay": (text_lost(3, 1e-4, 0.2), 1, "C010", "text tower was barely"),
    "vision tower never loaded, two steps": (lambda: clip("text", 2, 1e-5), 1, "C010", "vision tower was barely"),
    "nothing loaded, one step": (lambda: clip("none", 1, 1e-5), 1, "C010", "No part of the weights was trained"),
    "a fresh classifier after a warm-up of three steps": (lambda: classifier(3, 1e-5), 1, "C010", "few small steps"),
    "a fresh reader after one step": (lambda: reader(1, 5e-5), 1, "C010", "few small steps"),
    "text tower never loaded, no step": (text_lost(0, 0.0), 1, "C003", "text tower was never trained"),
    "both towers loaded, one step": (lambda: clip("both", 1, 1e-6), 0, None, ""),
    "a fresh classifier after ten large steps": (lambda: classifier(10, 3e-3), 0, None, ""),
}  # fmt: skip


@pytest.mark.parametrize("situation", sampled(ROWS, 2))
def test_audit_when_a_part_was_barely_trained_then_says_which_and_why(situation: str, tmp_path: Path) -> None:
    make, code, rule, words = ROWS[situation]
    path = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in make().state_dict().items()}, path)
    report = manifest.audit(path)
    found = [each for each in report.findings() if each.rule in {"C003", "C010"}]
    assert report.exit_code == code, found
    assert {each.rule for each in found} == ({rule} if rule else set())
    assert words in " ".join(each.message for each in found)


def test_save_when_a_tower_was_barely_trained_then_warns_unless_declared(tmp_path: Path) -> None:
    model, path = clip("vision", 1, 1e-5), tmp_path / "ckpt.pt"
    with pytest.warns(UserWarning, match="text tower was barely trained, and other parts were trained"):
        written = manifest.save(model, path, golden=False)
    assert written is not None
    assert {part.role: part.training.words for part in written.components}["text_tower"] == "barely trained"
    found = manifest.verify(path)
    assert (found.exit_code, [each.rule for each in found.findings() if each.rule == "C010"]) == (0, ["C010"] * 2)
    manifest.save(model, path, golden=False, partial=["text_tower", "text_projection"])
    assert "C010" not in {each.rule for each in manifest.verify(path).findings()}

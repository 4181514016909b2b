"""Small models of six libraries, their losses on random data, and the verdict on their weights in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
import transformers
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import nn

from manifest.checkpoint import open_checkpoint
from manifest.initialisation.verdict import Evidence, evidence

State = dict[str, torch.Tensor]
Loss = Callable[[nn.Module], torch.Tensor]

OPTIMIZERS = {
    "AdamW": lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate),
    "SGD": lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 64, "heads": 2, "layers": 2}
VISIONS: dict[str, dict[str, Any]] = {
    "CLIP ViT": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3},
    "CLIP ViT, layer scale": {
        "image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3, "ls_init_value": 1e-5,
    },
    "CLIP ResNet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 32},
}  # fmt: skip
TIMM = ("test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_byobnet")
TRANSFORMERS = ("CLIPModel", "SiglipModel", "BertForSequenceClassification", "LlamaForSequenceClassification")


def built(kind: str, seed: int) -> tuple[nn.Module, Loss]:
    """A fresh model, and its loss on random data."""
    torch.manual_seed(seed)
    if kind in VISIONS:
        side = VISIONS[kind]["image_size"]
        images, tokens = torch.randn(4, 3, side, side), torch.randint(1, 64, (4, 8))
        model: nn.Module = CLIP(embed_dim=32, vision_cfg=VISIONS[kind], text_cfg=TEXT)
        return model, lambda model: contrastive(*model(images, tokens))
    if kind in TRANSFORMERS:
        return of_transformers(kind)
    if kind in TIMM:
        side = 160 if "vit" in kind else 64
        model = timm.create_model(kind, num_classes=10)
    else:
        side = 64
        model = getattr(torchvision.models, kind)(num_classes=10)
    images, labels = torch.randn(4, 3, side, side), torch.randint(0, 10, (4,))
    return model, lambda model: nn.functional.cross_entropy(model(images), labels)


def contrastive(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    logits = scale * images @ texts.T
    labels = torch.arange(len(images))
    return nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)


def of_transformers(kind: str) -> tuple[nn.Module, Loss]:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 64, "max_position_embeddings": 16}
    tokens = torch.randint(3, 64, (4, 16))
    if kind == "BertForSequenceClassification":
        labels = torch.randint(0, 2, (4,))
        model: Any = transformers.BertForSequenceClassification(transformers.BertConfig(**text))
        return model, lambda model: model(input_ids=tokens, labels=labels).loss
    if kind == "LlamaForSequenceClassification":
        config = transformers.LlamaConfig(**text, num_key_value_heads=2, pad_token_id=0)
        model = transformers.LlamaForSequenceClassification(config)
        return model, lambda model: model(input_ids=tokens, labels=tokens[:, 0] % 2).loss
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    images = torch.randn(4, 3, 32, 32)
    if kind == "SiglipModel":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    else:
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
        )

    def loss(model: Any) -> torch.Tensor:
        found = model(input_ids=tokens, pixel_values=images)
        return contrastive(found.image_embeds, found.text_embeds, model.logit_scale.exp())

    return model, loss


def roles_of(state: State) -> dict[str, str]:
    """By the names that all of these libraries use."""
    towers = {"visual": "vision_tower", "vision_model": "vision_tower", "head": "head", "fc": "head", "score": "head"}
    singles = {
        "visual.proj": "vision_projection", "visual_projection.weight": "vision_projection",
        "text_projection": "text_projection", "text_projection.weight": "text_projection",
        "logit_scale": "logit_scale", "logit_bias": "logit_bias",
    }  # fmt: skip
    both = any(name.startswith(("visual.", "vision_model.")) for name in state)
    rest = "text_tower" if both else "backbone"
    return {name: singles.get(name) or towers.get(name.partition(".")[0], rest) for name in state}


def told(state: State, precision: torch.dtype, path: Path) -> dict[str, Evidence]:
    stored = {
        name: (value.to(precision) if value.is_floating_point() else value).contiguous().clone()
        for name, value in state.items()
    }
    save_file(stored, path)
    with open_checkpoint(path) as checkpoint:
        return evidence(roles_of(state), checkpoint)

"""Files as training leaves them, of eight architectures: wrapped, prefixed, averaged, halved, beside an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

import manifest
from tests.sampling import sampled

State = dict[str, torch.Tensor]


def _bert() -> Any:
    return BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=99)
    )


def _hugging_face_clip() -> Any:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config=small, vision_config={**small, "image_size": 32, "patch_size": 8})
    return CLIPModel(config)


MODELS: dict[str, Callable[[], Any]] = {
    "open_clip RN50": lambda: open_clip.create_model("RN50"),
    "open_clip ViT-S-32-alt": lambda: open_clip.create_model("ViT-S-32-alt"),
    "timm test_vit": lambda: timm.create_model("test_vit"),
    "timm test_efficientnet": lambda: timm.create_model("test_efficientnet"),
    "torchvision resnet18": lambda: torchvision.models.get_model("resnet18", weights=None),
    "torchvision squeezenet1_1": lambda: torchvision.models.get_model("squeezenet1_1", weights=None),
    "transformers BertModel": _bert,
    "transformers CLIPModel": _hugging_face_clip,
}
VARIANTS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "under a key": lambda state: {"epoch": 3, "model": state},
    "prefixed": lambda state: {f"backbone.net.{name}": value for name, value in state.items()},
    "of DDP and compile": lambda state: {
        "state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}
    },
    "averaged": lambda state: {
        "model_ema": {f"module.{n}": v for n, v in state.items()} | {"n_averaged": torch.tensor(7)}
    },
    "beside its average": lambda state: {"state_dict": state, "state_dict_ema": dict(state)},
    "halved": lambda state: {name: v.half() if v.is_floating_point() else v for name, v in state.items()},
    "with its optimizer": lambda state: {
        "state_dict": state,
        "optimizer": {
            "state": {i: {"exp_avg": v} for i, v in enumerate(state.values())},
            "param_groups": [{"lr": 0.1}],
        },
    },
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[str, State]:
    """Name of an architecture, and weights of it that have moved."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = MODELS[request.param]().state_dict()
        moved = {n: v + 0.01 * torch.randn_like(v) if v.is_floating_point() else v for n, v in state.items()}
    return request.param, moved


@pytest.mark.parametrize("variant", sampled(VARIANTS, 2))
def test_file_is_identified_however_training_left_it(model: tuple[str, State], variant: str, tmp_path: Path) -> None:
    name, state = model
    torch.save(VARIANTS[variant](state), tmp_path / "file.pt")
    report = manifest.audit(tmp_path / "file.pt")
    identity = next(rung.reason for rung in report.rungs if rung.name == "identity")
    assert identity.startswith(name)
    assert not [found for found in report.findings() if found.severity == "error"]

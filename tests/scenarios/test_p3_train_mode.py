"""P3: the same image and prompts, other answers every time: the model came back in train mode, with drop path alive.

A small convnext CLIP of the same kind (drop path 0.1, GELU in its trunk, QuickGELU in its text tower) stands for the
xxlarge one, which `tests/sweep` examines at full size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

import manifest
from manifest.probes.inputs import photographs
from manifest.schema.report import Outcome, Report, Rung

NAME = "small-convnext-p3"
CONFIG = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {
        "timm_model_name": "convnext_atto",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop_path": 0.3,
        "image_size": 64,
    },
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def model() -> Any:
    open_clip.factory._MODEL_CONFIGS[NAME] = CONFIG
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Any = open_clip.create_model(NAME)
        for name, parameter in made.named_parameters():
            # A fresh convnext scales its residual branches by 1e-6, and nobody would miss one.
            if name.endswith("gamma"):
                parameter.data.uniform_(0.5, 1.5)
            elif parameter.ndim == 1:  # as training moves norms and biases, so that no tower is taken for fresh
                parameter.data.add_(0.01 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p3") / "convnext.safetensors"
    manifest.save(model.train(), path, model_name=NAME)
    return path


def features(model: Any) -> torch.Tensor:
    _, _, preprocess = open_clip.create_model_and_transforms(NAME)
    with torch.no_grad():
        found: torch.Tensor = model.encode_image(preprocess(photographs()["chelsea"])[None])
    return found


def rung(report: Report, name: str) -> Rung:
    return next(each for each in report.rungs if each.name == name)


def test_library_gives_a_model_that_answers_otherwise_every_time(model: Any) -> None:
    model.train()
    one, two = features(model), features(model)
    assert float((one - two).norm() / one.norm()) > 1e-2
    model.eval()
    assert torch.equal(features(model), features(model))


def test_golden_outputs_of_a_model_in_train_mode_are_those_of_eval_mode(model: Any, saved: Path) -> None:
    loaded = manifest.load(saved)
    assert not loaded.training
    assert torch.allclose(features(loaded), features(model.eval()), rtol=1e-4, atol=1e-6)
    assert manifest.verify(saved).exit_code == 0


def test_doctor_names_drop_path_and_clears_the_activation(model: Any) -> None:
    report = manifest.doctor(model.train())
    modes, operators = rung(report, "modes"), rung(report, "operators")
    assert "DropPath in train mode compute something else" in modes.findings[0].message
    (random,) = [found for found in operators.findings if found.rule == "D002"]
    assert "aten.bernoulli" in random.message
    assert "drop_path" in random.message
    assert "not the cause: GELU (gelu), QuickGELU (mul, sigmoid)" in operators.reason
    assert "QuickGELU" not in random.message
    repeat = rung(report, "repeat")
    assert repeat.findings[0].rule == "D005"
    assert repeat.findings[0].remedy == "model.eval()"
    assert repeat.reason.endswith("cured by model.eval()")
    assert report.exit_code == 1
    assert rung(report, "eval mode").reason.endswith("the same bit for bit")
    assert model.training, "the model is as it was"


def test_doctor_finds_nothing_in_eval_mode_and_in_a_fresh_process(model: Any, saved: Path) -> None:
    report = manifest.doctor(saved)
    assert report.exit_code == 0
    assert not [found for found in report.findings() if found.rule in {"D001", "D002", "D005"}]
    assert rung(report, "process").reason.endswith(("the same bit for bit", "which is arithmetic"))
    assert rung(report, "gpu").outcome is (Outcome.PASS if torch.cuda.is_available() else Outcome.SKIP)
    in_memory = manifest.doctor(model.eval())
    assert "give the doctor its checkpoint" in rung(in_memory, "process").reason


def test_answers_in_train_mode_are_told_from_those_on_record(model: Any, saved: Path) -> None:
    report = manifest.compare(model.train(), saved)
    (found,) = report.findings()
    assert report.exit_code == 1
    assert "train mode instead of eval mode (mode)" in found.message
    assert "model.eval() (tried on this model" in found.remedy
    assert manifest.compare(model.eval(), saved).exit_code == 0

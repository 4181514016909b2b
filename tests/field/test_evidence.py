"""What a file's own numbers and the files beside it tell: said once, in few lines, with the right exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file

import manifest

State = dict[str, torch.Tensor]


def trained(name: str) -> State:
    """Weights that look trained."""
    torch.manual_seed(0)
    model: Any = open_clip.create_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
        model.logit_scale.fill_(4.6)
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def weights() -> State:
    return trained("ViT-S-32-alt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a ViT-B-32, which has a twin with another activation."""
    place = tmp_path_factory.mktemp("evidence")
    save_file(trained("ViT-B-32"), place / "open_clip_model.safetensors")
    return place


def identity(report: Any) -> str:
    return str(next(rung.reason for rung in report.rungs if rung.name == "identity"))


def test_audit_when_nothing_tells_twins_apart_then_one_note_says_so(folder: Path) -> None:
    report = manifest.audit(folder / "open_clip_model.safetensors")
    (note,) = report.findings()
    assert (report.exit_code, note.rule) == (0, "A011")
    assert "which differ in the activation" in note.message
    assert "openai, laion400m_e31" in note.message
    assert identity(report) == "open_clip ViT-B-32 or ViT-B-32-quickgelu"


def test_audit_when_the_model_is_healthy_then_it_fits_in_ten_lines(folder: Path, run: Callable[..., Any]) -> None:
    answer = run("audit", folder / "open_clip_model.safetensors", COLUMNS="200")
    assert answer.code == 0
    assert len(answer.out.splitlines()) <= 10, answer.out


@pytest.mark.parametrize(("quick", "name"), [(False, "ViT-B-32"), (True, "ViT-B-32-quickgelu")])
def test_audit_when_a_config_beside_it_says_the_activation_then_it_is_told(
    quick: bool, name: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "open_clip_model.safetensors").symlink_to(folder / "open_clip_model.safetensors")
    config = {**open_clip.get_model_config("ViT-B-32"), "quick_gelu": quick}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    report = manifest.audit(tmp_path / "open_clip_model.safetensors")
    assert identity(report) == f"open_clip {name}, as open_clip_config.json beside it says"
    assert (report.exit_code, list(report.findings())) == (0, [])


CHANGES: dict[str, tuple[Callable[[State], None], int, str, str]] = {
    "a scale that was exponentiated": (
        lambda state: state["logit_scale"].copy_(torch.tensor(14.2849)),
        0,
        "C011",
        "logit_scale is 14.2849, whose exponential is 1.6e+06",
    ),
    "a scale of a hundred": (lambda state: state["logit_scale"].copy_(torch.tensor(100.0)), 0, "C011", "is 4.61."),
    "a text projection of zeros": (
        lambda state: state["text_projection"].zero_(),
        1,
        "C007",
        "text_projection is zero throughout",
    ),
    "a vision projection of zeros": (lambda state: state["visual.proj"].zero_(), 1, "C007", "visual.proj is zero"),
    "one layer of zeros": (
        lambda state: state["transformer.resblocks.3.mlp.c_fc.weight"].zero_(),
        0,
        "C007",
        "transformer.resblocks.3.mlp.c_fc.weight is zero",
    ),
}


@pytest.mark.parametrize("situation", CHANGES)
def test_audit_when_numbers_cannot_work_then_says_so(situation: str, weights: State, tmp_path: Path) -> None:
    change, code, rule, words = CHANGES[situation]
    state = {name: value.clone() for name, value in weights.items()}
    change(state)
    save_file(state, tmp_path / "weights.safetensors")
    report = manifest.audit(tmp_path / "weights.safetensors")
    found = [each for each in report.findings() if each.rule == rule]
    assert len(found) == 1
    assert words in found[0].message
    assert report.exit_code == code

"""LoRA adapters of PEFT: beside the weights, alone, around a live model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import peft
import pytest
import torch

import manifest
from manifest.errors import ArchitectureError
from manifest.schema.report import Report


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A CLIP with trained-looking adapters on its linear layers, saved as a whole and by PEFT."""
    place = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    model: Any = open_clip.create_model("ViT-S-32-alt")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=32, target_modules=["c_fc", "c_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter).exp() * 0.01)
    model.eval().save_pretrained(place / "adapter")
    torch.save(model.state_dict(), place / "whole.pt")
    return model, place


def of_adapters(report: Report) -> Any:
    return next(found for found in report.findings() if found.rule == "A014")


def test_audit_when_adapters_are_beside_the_weights_then_both_are_named(adapted: tuple[Any, Path]) -> None:
    report = manifest.audit(adapted[1] / "whole.pt")
    identity = next(rung for rung in report.rungs if rung.name == "identity")
    assert identity.reason.startswith("open_clip ViT-S-32-alt")
    assert {part.status.value for part in report.components} == {"complete"}
    message = of_adapters(report).message
    assert message.startswith(
        "Beside the weights are LoRA adapters of rank 4 on 44 layers (c_fc, c_proj), which are not"
    )
    assert report.exit_code == 0
    assert manifest.audit(adapted[1] / "whole.pt", claimed="open_clip:ViT-S-32-alt").exit_code == 0


def test_audit_when_adapters_are_alone_then_says_what_they_need(adapted: tuple[Any, Path]) -> None:
    found = of_adapters(manifest.audit(adapted[1] / "adapter"))
    assert found.message.startswith("These are LoRA adapters of rank 4 on 44 layers (c_fc, c_proj) alone")
    assert "adapter_config.json names no base, rank 4, alpha 32, targets" in found.message
    assert "peft.PeftModel.from_pretrained(model, DIRECTORY)" in found.remedy


def test_audit_when_adapters_are_alone_and_no_config_is_there_then_says_less(
    adapted: tuple[Any, Path], tmp_path: Path
) -> None:
    (tmp_path / "lora.safetensors").write_bytes((adapted[1] / "adapter" / "adapter_model.safetensors").read_bytes())
    assert of_adapters(manifest.audit(tmp_path / "lora.safetensors")).message.endswith("is not in the file.")
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    assert of_adapters(manifest.audit(tmp_path / "lora.safetensors")).message.endswith("is not in the file.")


def test_create_and_save_when_adapters_are_not_merged_then_say_to_merge(
    adapted: tuple[Any, Path], tmp_path: Path
) -> None:
    model, place = adapted
    with pytest.raises(ArchitectureError, match=r"adapters that are not merged: describe what `model.merge_and_unload"):
        manifest.create(place / "whole.pt", "ViT-S-32-alt", golden=False)
    with pytest.raises(ArchitectureError, match=r"has adapters around a model.*save what `model.merge_and_unload\(\)`"):
        manifest.save(model, tmp_path / "live.pt")
    assert not (tmp_path / "live.pt").exists()


def test_model_when_merged_as_told_then_is_saved_and_the_unmerged_is_told_from_it(
    adapted: tuple[Any, Path], tmp_path: Path
) -> None:
    model, _ = adapted
    found = next(manifest.compare(model, saved_without(model, tmp_path)).findings())
    assert "has adapters around it that are not merged" in found.message


def saved_without(model: Any, place: Path) -> Path:
    """The checkpoint of a model with its adapters merged; the model keeps its own."""
    manifest.save(copy.deepcopy(model).merge_and_unload().eval(), place / "merged.pt", golden=False)
    assert manifest.verify(place / "merged.pt").exit_code == 0
    return place / "merged.pt"

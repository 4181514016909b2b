"""One understanding of a file: what an audit identifies under other names, `create`, `verify` and `load` accept too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel, Qwen2Config, Qwen2ForCausalLM

import manifest
from manifest.errors import ArchitectureError
from tests.sampling import sampled

State = Mapping[str, torch.Tensor]
CLIP, VIT = ("open_clip", "ViT-S-32-alt"), ("timm", "test_vit")


def made(library: str, name: str) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = open_clip.create_model(name) if library == "open_clip" else timm.create_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def text_apart(name: str) -> str:
    return name if name.startswith("visual.") or name == "logit_scale" else f"text_encoder.{name}"


def vision_apart(name: str) -> str:
    return f"image_encoder.{name}" if name.startswith("visual.") else name


ROWS: dict[str, tuple[tuple[str, str], Callable[[str], str]]] = {
    # Situation: the architecture, and what the file calls a tensor of it.
    "a text tower under a prefix of its own": (CLIP, text_apart),
    "a vision tower under a prefix of its own": (CLIP, vision_apart),
    "everything under two prefixes": (VIT, lambda name: f"teacher.backbone.{name}"),
    "blocks that torch.compile wrapped": (VIT, lambda name: name.replace("blocks.0.", "blocks.0._orig_mod.")),
    "blocks that FSDP wrapped": (VIT, lambda name: name.replace("blocks.1.", "blocks.1._fsdp_wrapped_module.")),
    "the trunk under a prefix, and the head not": (VIT, lambda n: n if n.startswith("head.") else f"trunk.{n}"),
    "the architecture's own names": (VIT, lambda name: name),
}


@pytest.mark.parametrize("situation", sampled(ROWS, 3))
def test_file_when_its_names_have_prefixes_then_goes_the_whole_way(situation: str, tmp_path: Path) -> None:
    (library, name), called = ROWS[situation]
    model, path = made(library, name), tmp_path / "weights.pt"
    torch.save({"state_dict": {called(key): value for key, value in model.state_dict().items()}}, path)
    assert manifest.audit(path).exit_code == 0
    manifest.create(path, name, family=library, golden=False)
    assert manifest.verify(path).exit_code == 0
    loaded = manifest.load(path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_create_when_values_may_lie_otherwise_under_the_same_shape_then_is_refused(tmp_path: Path) -> None:
    state = {f"{name}_of_another_project": value for name, value in made(*VIT).state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ArchitectureError, match="are not those of a test_vit"):
        manifest.create(tmp_path / "weights.pt", "test_vit", family="timm", golden=False)
    assert not (tmp_path / "weights.pt.manifest.json").exists()


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """A student and its teacher in one state dict, as distillation leaves them."""
    student, teacher = made(*VIT).state_dict(), made(*VIT).state_dict()
    both = {f"model.{name}": value for name, value in student.items()}
    both |= {f"teacher.{name}": value * 0.5 for name, value in teacher.items()}
    torch.save({"state_dict": {**both, "temperature": torch.zeros(())}, "epoch": 3}, tmp_path / "both.ckpt")
    return tmp_path / "both.ckpt"


def test_file_when_two_models_are_in_it_then_one_is_chosen_and_goes_the_whole_way(two_models: Path) -> None:
    unknown = next(found for found in manifest.audit(two_models).findings() if found.rule == "A010")
    assert unknown.remedy == "Choose the model that is meant: `--state state_dict.model`."
    with pytest.raises(ArchitectureError, match=r"2 such models \(state_dict.model, state_dict.teacher\); choose one"):
        manifest.create(two_models, "test_vit", family="timm", golden=False)
    for part, factor in (("model", 1.0), ("teacher", 0.5)):
        assert manifest.audit(two_models, state=f"state_dict.{part}").exit_code == 0
        manifest.create(two_models, "test_vit", family="timm", state=f"state_dict.{part}", golden=False)
        assert manifest.verify(two_models).exit_code == 0
        loaded, original = manifest.load(two_models).state_dict(), made(*VIT).state_dict()
        assert all(torch.equal(loaded[name], value * factor) for name, value in original.items())


def test_file_when_a_model_has_adapters_beside_it_then_it_is_found_under_its_prefix(tmp_path: Path) -> None:
    state = {f"clip_model.{name}": value for name, value in made(*CLIP).state_dict().items()}
    torch.save({**state, "adapter.fc.0.weight": torch.randn(96, 384)}, tmp_path / "wrapper.pt")
    assert manifest.audit(tmp_path / "wrapper.pt").exit_code == 0
    manifest.create(tmp_path / "wrapper.pt", "ViT-S-32-alt", golden=False)
    assert manifest.verify(tmp_path / "wrapper.pt").exit_code == 0
    assert manifest.load(tmp_path / "wrapper.pt").logit_scale.shape == ()


def test_file_when_an_older_version_stored_tables_then_they_are_no_weights(tmp_path: Path) -> None:
    part = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**part, "vocab_size": 500, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = {**part, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    save_file(state, tmp_path / "model.safetensors")
    manifest.create(tmp_path, str(tmp_path), family="transformers")
    report = manifest.verify(tmp_path)
    assert report.exit_code == 0, [(found.rule, found.message) for found in report.findings()]
    assert torch.equal(manifest.load(tmp_path).visual_projection.weight, model.visual_projection.weight)


def test_file_when_its_head_is_tied_then_the_prefix_of_all_names_is_the_models_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=300, tie_word_embeddings=True)
    model = Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(tmp_path)
    assert all(name.startswith("model.") for name in load_file(tmp_path / "model.safetensors"))
    manifest.create(tmp_path, str(tmp_path), family="transformers")
    report = manifest.verify(tmp_path)
    assert report.exit_code == 0, [(found.rule, found.message) for found in report.findings()]
    assert torch.equal(manifest.load(tmp_path).lm_head.weight, model.lm_head.weight)

"""Real open_clip models, made by open_clip alone, through every container: the same weights, the same answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import manifest
from manifest.schema.document import Manifest
from manifest.storage.transaction import read_manifest

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 64, "width": 32, "head_width": 16}
SMALL: dict[str, dict[str, Any]] = {
    "small-vit-quickgelu": {
        "embed_dim": 32, "quick_gelu": True, "vision_cfg": {**VISION, "layers": 2, "patch_size": 16}, "text_cfg": TEXT,
    },
    "small-resnet": {"embed_dim": 32, "vision_cfg": {**VISION, "layers": [1, 1, 1, 1]}, "text_cfg": TEXT},
    "small-coca": {
        "embed_dim": 32,
        "vision_cfg": {
            **VISION, "layers": 2, "patch_size": 16, "attentional_pool": True, "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
        "custom_text": True,
    },
}  # fmt: skip
"""open_clip's own kinds of towers, in configs of a size that takes seconds."""
LARGE = (
    *("ViT-B-32-quickgelu", "RN50", "coca_ViT-B-32", "ViT-B-32", "ViT-B-16-SigLIP", "convnext_base"),
    *("MobileCLIP-S1", "EVA02-B-16"),
)
"""Only with `--whole`, as `make sweep` has it."""


@pytest.fixture(scope="module", autouse=True)
def small_configs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in SMALL.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def saved_and_loaded(model: Any, path: Path, **options: Any) -> Manifest:
    """Save, climb the whole ladder, load, compare every tensor; then make room."""
    recorded = manifest.save(model, path, **options)
    report = manifest.verify(path)
    golden = next(rung for rung in report.rungs if rung.name == "golden")
    assert report.exit_code == 0, report
    # Kernels of the larger models look at how their memory is aligned, which differs between files and runs.
    assert golden.reason.startswith(("exact", "equivalent") if recorded.architecture.name in LARGE else "exact"), report
    loaded = manifest.load(path, verify="fast")
    state = model.state_dict()
    assert not loaded.training
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert loaded.state_dict().keys() == state.keys()
    path.unlink()
    return recorded


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.whole) for name in LARGE)])
def test_model_goes_through_every_container_and_says_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = open_clip.create_model(name)
    if hasattr(model, "text_decoder"):
        torch.nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # open_clip leaves it as the memory was
    zipped = saved_and_loaded(model, tmp_path / "a.pt", extras={"epoch": 3})
    tensors = saved_and_loaded(model, tmp_path / "a.safetensors")
    assert zipped.architecture.name == name
    assert zipped.checkpoint.state.path == ["state_dict"]
    assert zipped.checkpoint.extras == ["epoch"]
    for key, output in zipped.golden[0].outputs.items():
        other = tensors.golden[0].outputs[key]
        apart = np.linalg.norm(np.subtract(output.sketch, other.sketch)) / np.linalg.norm(output.sketch)
        assert output == other or (name in LARGE and apart < 1e-5), key

    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    prefixed = {f"module.{key}": value for key, value in state.items()}
    torch.save(state, tmp_path / "bare.pt")
    torch.save({"state_dict": prefixed, "epoch": 3, "optimizer": {}}, tmp_path / "wrapped.pt")
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    for path in (tmp_path / "bare.pt", tmp_path / "wrapped.pt", tmp_path / "prefixed.safetensors"):
        manifest.create(path, name, golden=False)
        assert read_manifest(path).weights.digest == zipped.weights.digest == tensors.weights.digest
        assert manifest.verify(path, fast=True).exit_code == 0
        path.unlink()


def test_created_manifest_of_wrapped_weights_loads_and_says_where_they_were(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    prefixed = {f"module.{name}": value for name, value in digits_model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": prefixed}, tmp_path / "ddp.pt")
    manifest.create(tmp_path / "ddp.pt", digits.MODEL)
    record = read_manifest(tmp_path / "ddp.pt").checkpoint
    assert (record.state.path, record.state.prefix, record.extras) == (["state_dict"], "module.", ["epoch"])
    loaded = manifest.load(tmp_path / "ddp.pt")
    assert torch.equal(loaded.visual.proj, digits_model.visual.proj)


def test_parameters_that_take_no_gradient_are_those_that_took_none(digits: Any, tmp_path: Path) -> None:
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    model.lock_image_tower(unlocked_groups=1)
    model.logit_scale.requires_grad_(False)
    record = manifest.save(model, tmp_path / "x.pt", golden=False).architecture
    assert "logit_scale" in record.frozen
    assert "visual.conv1." in record.frozen
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    loaded = manifest.load(tmp_path / "x.pt")
    assert {name: parameter.requires_grad for name, parameter in loaded.named_parameters()} == expected

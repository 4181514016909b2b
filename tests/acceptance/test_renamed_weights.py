"""Files in which tensors have other names than in the module: transformers writes some models as older versions did."""

from __future__ import annotations

import pytest
import torch

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.storage.transaction import read_manifest
from manifest.workflows.converting import convert


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A model, and the file of its `save_pretrained`."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=3)).eval()
    directory = tmp_path_factory.mktemp("vit")
    model.save_pretrained(directory)
    manifest.create(directory / "model.safetensors", str(directory), family="transformers", floor="full")
    return model, directory / "model.safetensors"


def test_create_when_the_file_has_other_names_then_both_are_on_record(vit):
    model, path = vit
    weights = read_manifest(path).weights
    assert {tensor.name for tensor in weights.tensors} == model.state_dict().keys()
    with open_checkpoint(path) as stored:
        assert {tensor.stored or tensor.name for tensor in weights.tensors} == stored.tensors.keys()


def test_verify_when_the_file_has_other_names_then_it_passes(vit):
    assert manifest.verify(vit[1]).exit_code == 0


def test_load_when_the_file_has_other_names_then_it_says_what_the_model_says(vit):
    model, path = vit
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(manifest.load(path)(pixel_values=images).logits, model(pixel_values=images).logits)


def test_weights_digest_when_another_file_has_the_modules_names_then_it_is_the_same(vit, tmp_path):
    model, path = vit
    own = manifest.save(model, tmp_path / "own.pt", golden=False)
    assert own is not None
    assert own.weights.digest == read_manifest(path).weights.digest


def test_convert_when_the_file_has_other_names_then_the_new_one_has_the_modules(vit, tmp_path):
    model, path = vit
    converted = tmp_path / "converted.safetensors"
    convert(path, converted)
    with open_checkpoint(converted) as stored:
        assert stored.tensors.keys() == model.state_dict().keys()
    assert manifest.verify(converted).exit_code == 0


def test_recording_when_save_pretrained_writes_other_names_then_it_passes(vit, tmp_path):
    with manifest.recording(golden="none") as recorder:
        vit[0].save_pretrained(tmp_path)
    assert (recorder.described, recorder.left_alone) == ([tmp_path / "model.safetensors"], [])
    assert manifest.verify(tmp_path / "model.safetensors").exit_code == 0

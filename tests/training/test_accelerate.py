"""Accelerate's savers inside `manifest.recording()`, which needs to know nothing of them but where an index is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForMaskedLM

import manifest


def passes(path: Path) -> bool:
    return manifest.verify(path).exit_code == 0


def steps(accelerator: Accelerator, model: Any, optimizer: Any, count: int) -> None:
    for index in range(count):
        torch.manual_seed(index)
        loss = model(torch.randn(2, 3, 32, 32)).square().mean()
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()


def prepared() -> tuple[Accelerator, Any, Any]:
    """An accelerator, a compiled timm model in its care, and the optimizer."""
    torch.manual_seed(3)
    accelerator = Accelerator(cpu=True)
    model = torch.compile(timm.create_model("test_vit", num_classes=4, img_size=32), backend="eager")
    return accelerator, *accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """What a training has saved in each way that accelerate has."""
    folder = tmp_path_factory.mktemp("recorded")
    with manifest.recording(floor="none") as recorder:
        accelerator, model, optimizer = prepared()
        steps(accelerator, model, optimizer, 2)
        accelerator.save_state(folder / "state")
        accelerator.save_model(model, folder / "model")
        accelerator.save_model(model, folder / "sharded", max_shard_size="200KB")
        accelerator.save(accelerator.get_state_dict(model), folder / "model.pt")
    return accelerator.unwrap_model(model, keep_torch_compile=False), folder, recorder


SAVED = ["state/model.safetensors", "model/model.safetensors", "sharded", "model.pt"]


@pytest.mark.parametrize("name", SAVED)
def test_recording_when_accelerate_saves_then_it_passes_and_loads(recorded, name):
    model, folder, _ = recorded
    assert passes(folder / name)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(manifest.load(folder / name)(images), model.eval()(images))


def test_recording_when_accelerate_saves_then_nothing_else_is_described(recorded):
    _, folder, recorder = recorded
    assert {path.relative_to(folder).as_posix() for path in recorder.described} == set(SAVED)
    assert not recorder.failed


def test_recording_when_accelerate_resumes_then_weights_are_those_without_recording(recorded, tmp_path):
    accelerator, model, optimizer = prepared()
    steps(accelerator, model, optimizer, 4)
    plain = accelerator.unwrap_model(model, keep_torch_compile=False).state_dict()
    with manifest.recording(golden="none"):
        accelerator, model, optimizer = prepared()
        accelerator.load_state(recorded[1] / "state")
        for index in (2, 3):
            torch.manual_seed(index)
            optimizer.zero_grad()
            accelerator.backward(model(torch.randn(2, 3, 32, 32)).square().mean())
            optimizer.step()
        accelerator.save_state(tmp_path)
    resumed = manifest.load(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(plain[name], resumed[name]) for name in plain)


def test_recording_when_accelerate_stores_tied_weights_once_then_it_passes(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with manifest.recording(floor="none"):
        accelerator = Accelerator(cpu=True)
        model = accelerator.prepare(BertForMaskedLM(BertConfig(**sizes, vocab_size=99, max_position_embeddings=16)))
        accelerator.save_model(model, tmp_path)
    assert passes(tmp_path / "model.safetensors")

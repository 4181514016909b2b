"""`transformers.Trainer` with the callback: tiny models of three kinds, some steps, and what is in the checkpoints."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

import manifest
from manifest.capture.options import RecordOptions
from manifest.errors import NoManifestWarning
from manifest.storage.transaction import read_manifest
from manifest.training.recorder import CheckpointRecorder

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**SIZES, "vocab_size": 99, "max_position_embeddings": 16}


def clip() -> CLIPModel:
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 8}
    vision = {**SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))


def bert() -> BertForMaskedLM:
    return BertForMaskedLM(BertConfig(**TEXT))


def resnet() -> ResNetForImageClassification:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(num_labels=3, **sizes))


def vit() -> ViTForImageClassification:
    return ViTForImageClassification(ViTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3))


def example(model: Any, index: int) -> dict[str, Any]:
    numbers = torch.Generator().manual_seed(index)
    tokens = torch.randint(3, 99, (8,), generator=numbers)
    image = torch.randn(3, 32, 32, generator=numbers)
    if isinstance(model, CLIPModel):
        return {"input_ids": tokens, "pixel_values": image, "return_loss": True}
    if isinstance(model, BertForMaskedLM):
        return {"input_ids": tokens, "labels": tokens}
    return {"pixel_values": image, "labels": torch.tensor(index % 3)}


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: torch.stack([row[name] for row in rows]) if isinstance(value, torch.Tensor) else value
        for name, value in rows[0].items()
    }


def train(
    model: Any, folder: Path, *callbacks: Any, steps: int = 4, resume: Path | None = None, **settings: Any
) -> Any:
    """Train for some steps, saving after every second; the model begins with the same weights every time."""
    set_seed(3)
    model = model()
    quiet = {
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
        "log_level": "error",
    }
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=2, save_steps=2, **{**quiet, **settings}
    )
    rows = [example(model, index) for index in range(8)]
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collate, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return model.eval()


def callback(**options: Any) -> Any:
    return manifest.transformers.ManifestCallback(**{"floor": "none", **options})


def passes(path: Path) -> bool:
    return manifest.verify(path).exit_code == 0


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A CLIP that was trained with the callback, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("described")
    return train(clip, folder, callback()), folder


def test_train_when_over_then_checkpoints_pass_and_the_last_says_what_the_model_says(described):
    model, folder = described
    assert passes(folder / "checkpoint-2" / "model.safetensors")
    assert passes(folder / "checkpoint-4" / "model.safetensors")
    inputs = collate([example(model, 0), example(model, 1)])
    loaded = manifest.load(folder / "checkpoint-4" / "model.safetensors")
    assert torch.equal(loaded(**inputs).logits_per_image, model(**inputs).logits_per_image)


def test_train_when_there_is_no_callback_then_the_weights_are_bit_equal(described, tmp_path):
    plain = train(clip, tmp_path).state_dict()
    watched = described[0].state_dict()
    assert all(torch.equal(plain[name], watched[name]) for name in watched)


def test_train_when_it_resumes_then_it_goes_on_and_describes_what_it_saves(described, tmp_path):
    train(clip, tmp_path, callback(golden="none"), steps=6, resume=described[1] / "checkpoint-4")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]
    assert passes(tmp_path / "checkpoint-6" / "model.safetensors")


def test_train_when_tied_weights_are_stored_once_then_checkpoint_passes_and_loads(tmp_path):
    model = train(bert, tmp_path, callback())
    saved = tmp_path / "checkpoint-4" / "model.safetensors"
    assert passes(saved)
    loaded = manifest.load(saved)
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight
    tokens = torch.arange(8)[None]
    assert torch.equal(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize("make", [resnet, vit])  # of the one the file has the module's names, of the other older ones
def test_train_when_it_classifies_images_then_golden_outputs_are_of_photographs(make, tmp_path):
    train(make, tmp_path, callback())
    saved = tmp_path / "checkpoint-4" / "model.safetensors"
    assert passes(saved)
    assert "class_logits" in read_manifest(saved).golden[0].outputs


def test_train_when_the_model_is_sharded_then_the_manifest_is_in_the_directory(tmp_path, monkeypatch):
    in_shards = functools.partialmethod(PreTrainedModel.save_pretrained, max_shard_size="8KB")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", in_shards)
    train(bert, tmp_path, callback(golden="none"))
    assert (tmp_path / "checkpoint-4" / "manifest.json").is_file()
    assert passes(tmp_path / "checkpoint-4")


def test_train_when_checkpoints_are_rotated_then_nothing_of_the_older_ones_stays(tmp_path):
    train(clip, tmp_path, callback(golden="none"), steps=6, save_total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]
    assert passes(tmp_path / "checkpoint-6" / "model.safetensors")


def test_describe_when_it_is_late_then_the_directory_is_no_younger_for_it(tmp_path):
    # By their times the trainer finds out which checkpoint is the oldest, and removes it.
    model = clip()
    model.save_pretrained(tmp_path)
    os.utime(tmp_path, (1e9, 1e9))
    with CheckpointRecorder(RecordOptions()) as recorder:
        recorder.describe(tmp_path / "model.safetensors", model)
    assert recorder.described == [tmp_path / "model.safetensors"]
    assert tmp_path.stat().st_mtime == 1e9


def test_train_when_only_the_last_is_asked_then_it_has_golden_outputs(tmp_path):
    train(clip, tmp_path, callback(golden="last"))
    assert not read_manifest(tmp_path / "checkpoint-2" / "model.safetensors").golden
    assert read_manifest(tmp_path / "checkpoint-4" / "model.safetensors").golden


def test_train_when_it_writes_no_weights_that_are_known_then_the_reason_is_said(tmp_path):
    class Removing(TrainerCallback):
        def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / "model.safetensors").unlink()

    with pytest.warns(NoManifestWarning, match=r"checkpoint-2: it holds neither model\.safetensors nor"):
        train(clip, tmp_path, Removing(), callback(), steps=2)


def test_train_when_it_raises_then_what_was_saved_is_described(tmp_path):
    class Failing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            del args
            if state.global_step == 3:
                raise RuntimeError("out of luck")

    again = callback(golden="none")
    with pytest.raises(RuntimeError, match="out of luck"):
        train(clip, tmp_path, again, Failing())
    assert passes(tmp_path / "checkpoint-2" / "model.safetensors")
    train(clip, tmp_path, again, resume=tmp_path / "checkpoint-2")
    assert passes(tmp_path / "checkpoint-4" / "model.safetensors")


@pytest.mark.filterwarnings("error::manifest.errors.NoManifestWarning")
def test_recording_when_the_trainer_has_no_callback_then_saves_are_described(tmp_path):
    with manifest.recording(golden="none") as recorder:
        train(vit, tmp_path, steps=6, save_total_limit=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]
    assert passes(tmp_path / "checkpoint-6" / "model.safetensors")
    assert not recorder.failed


def test_folder_when_one_file_in_it_is_described_then_stands_for_that_file(tmp_path, run):
    model = ViTForImageClassification(
        ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16)
    )
    folder = tmp_path / "final"
    with manifest.recording(golden="none"):
        model.save_pretrained(folder)
    assert manifest.verify(folder, fast=True).path == str(folder / "model.safetensors")
    assert run("verify", "--fast", folder).code == 0
    assert "ViTForImageClassification" in run("show", folder).out
    assert type(manifest.load(folder, verify="fast")) is ViTForImageClassification
    with manifest.recording(golden="none"):
        torch.save(model.state_dict(), folder / "other.pt")
    assert run("verify", folder, "--fast").out.endswith("2 of 2 pass\n")
    shown = run("show", folder).out.splitlines()
    assert [line.split()[0] for line in shown] == [str(folder / name) for name in ("model.safetensors", "other.pt")]

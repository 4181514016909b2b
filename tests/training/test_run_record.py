"""Checkpoints whose saving was not seen: described by `manifest create`, from the models that the run made."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from pathlib import Path
from textwrap import dedent

import fsspec
import open_clip
import pytest
import timm
import torch
import transformers
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError, NoManifestWarning
from manifest.families import tell_of
from manifest.families.protocol import Creation
from manifest.storage.run_record import MOST_MODELS, RUN_RECORD, MadeModel, read_run_record, write_run_record
from manifest.training.account import words_of_lost


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a run is started."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved_into_memory(model: nn.Module) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "epoch": 1}, buffer)
    return buffer.getvalue()


def into_an_archive(content: bytes, path: Path) -> None:
    with zipfile.ZipFile("release.zip", "w") as archive:
        archive.writestr("model.pt", content)
    path.write_bytes(zipfile.ZipFile("release.zip").read("model.pt"))


def into_a_bucket(content: bytes, path: Path) -> None:
    with fsspec.open("memory://bucket/model.pt", "wb") as file:
        file.write(content)
    fsspec.filesystem("memory").get("/bucket/model.pt", str(path))


@pytest.mark.parametrize("carry", [into_an_archive, into_a_bucket])
def test_save_when_it_went_out_of_sight_then_create_knows_its_model(carry, folder):
    with (
        pytest.warns(NoManifestWarning, match=r"1 save into memory .* `manifest create FILE`"),
        manifest.recording(golden="none"),
    ):
        content = saved_into_memory(timm.create_model("test_resnet", num_classes=4, act_layer="silu"))
    carry(content, folder / "model.pt")
    record = manifest.describe("model.pt", golden=False).architecture
    assert (record.family, record.name) == ("timm", "test_resnet")
    assert record.arguments == {"num_classes": 4, "act_layer": "silu"}
    assert manifest.verify("model.pt").passed


def test_run_when_nothing_was_seen_then_says_what_to_do_and_that_works(folder, run):
    script = """
        import safetensors.numpy
        from torch import nn

        class Config:
            def __init__(self, width):
                self.width = width

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.layer = nn.Linear(width, width)

        class Net(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.blocks = nn.Sequential(Block(config.width), Block(config.width))

        def main():
            state = Net(Config(6)).state_dict()
            safetensors.numpy.save_file({name: each.numpy() for name, each in state.items()}, "out.safetensors")

        main()
    """
    (folder / "train.py").write_text(dedent(script))
    ended = run("run", "--", "python", "train.py")
    assert ended.code == 0, ended
    assert ended.err.splitlines()[-1] == (
        "manifest: no save of a model was seen; describe a file that holds one with `manifest create FILE`, "
        "in this folder, which reads .manifest/run.json"
    )
    assert [made.name for made in read_run_record(folder / RUN_RECORD)] == ["train.py:Net"]
    refused = run("create", "out.safetensors").complaint
    assert "train.py:Net: The factory" in refused
    assert "(`--allow PATH/train.py`)" in refused
    assert run("create", "out.safetensors", "--allow", "train.py", "--no-golden").code == 0
    assert run("verify", "out.safetensors", "--allow", "train.py").code == 0
    loaded = manifest.load(folder / "out.safetensors", allow=[str(folder / "train.py")])
    assert loaded.blocks[1].layer.in_features == 6


def test_models_when_one_makes_another_then_only_the_outer_one_is_on_record(folder):
    config = transformers.ViTConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=32, image_size=32, patch_size=16
    )
    with pytest.warns(NoManifestWarning), manifest.recording(golden="none"):
        open_clip.create_model("RN50", force_quick_gelu=True)
        kept = transformers.ViTForImageClassification(config)
        content = saved_into_memory(kept)
    made = read_run_record(folder / RUN_RECORD)
    assert [(each.family, each.name) for each in made] == [
        ("transformers", "ViTForImageClassification"),
        ("open_clip", "RN50"),
    ]
    assert made[1].arguments == {"force_quick_gelu": True}
    (folder / "vit.pt").write_bytes(content)
    assert manifest.describe("vit.pt", golden=False).architecture.config["hidden_size"] == 16
    assert manifest.verify("vit.pt").passed


def test_model_when_it_was_loaded_by_its_manifest_then_create_knows_it(folder):
    manifest.save(timm.create_model("test_vit", num_classes=3), "first.pt", golden=False)
    with pytest.warns(NoManifestWarning), manifest.recording(golden="none"):
        content = saved_into_memory(manifest.load("first.pt"))
    (folder / "next.pt").write_bytes(content)
    assert manifest.describe("next.pt", golden=False).architecture.arguments == {"num_classes": 3}


def test_create_when_two_models_have_the_tensors_then_asks_which(folder):
    with pytest.warns(NoManifestWarning), manifest.recording(golden="none"):
        timm.create_model("test_resnet", act_layer="silu")
        content = saved_into_memory(timm.create_model("test_resnet"))
    (folder / "one.pt").write_bytes(content)
    with pytest.raises(ArchitectureError, match=r"2 models .* test_resnet with \{'act_layer': 'silu'\}\)"):
        manifest.describe("one.pt", golden=False)
    assert manifest.describe("one.pt", "test_resnet", family="timm", golden=False).architecture.arguments == {}


def test_create_when_no_model_has_the_tensors_then_says_how_each_differs(folder):
    write_run_record(folder, [MadeModel(family="timm", name="test_vit"), MadeModel(family="nobody", name="x")])
    torch.save(timm.create_model("test_resnet").state_dict(), "one.pt")
    with pytest.raises(ArchitectureError, match=r"x: No family is called 'nobody'.*test_vit: it has other tensors \("):
        manifest.describe("one.pt")


def test_create_when_there_is_no_record_then_asks_for_the_model(tmp_path, run):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "one.pt")
    assert run("create", "one.pt").complaint.startswith("Nothing tells the architecture of one.pt, and there is no")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ('{"models": [], "models": []}', "twice"),
        ('{"models": [{"family": "timm"}]}', "models.0.name"),
        ('{"models": [{"family": "timm", "name": "\\u001b[2J", "code": 1}]}', "there is no field 'code'"),
        (json.dumps({"models": [{"family": "timm", "name": "x"}] * 101}), "'models'"),
    ],
)
def test_record_when_it_is_none_then_that_is_one_sentence(text, said, folder, run):
    (folder / ".manifest").mkdir()
    (folder / RUN_RECORD).write_text(text)
    torch.save(timm.create_model("test_resnet").state_dict(), "one.pt")
    complaint = run("create", "one.pt").complaint
    assert said in complaint
    assert complaint.isprintable()
    assert "`--model`" in complaint
    with pytest.raises(InputError):
        read_run_record(folder / RUN_RECORD)


def test_record_when_names_are_odd_then_they_come_back(folder):
    made = [MadeModel(family="timm", name="\x1b[2J\u202e", arguments={"\x00": [1, {"$tuple": []}]}, pretrained="é")]
    assert read_run_record(write_run_record(folder, [*made, *made])) == made


def test_record_when_it_cannot_be_written_then_says_what_to_do_instead(folder):
    (folder / ".manifest").write_text("a file")
    said = words_of_lost(2, [MadeModel(family="timm", name="x")])
    assert said.startswith("2 saves into memory are in no file that was seen here; describe a file")
    assert "--model NAME`, since .manifest/run.json cannot be written here (" in said


def test_model_when_it_cannot_be_written_down_then_the_training_goes_on(folder):
    odd = os.fsdecode(b"weights-\xff.pt")
    torch.save(timm.create_model("test_resnet").state_dict(), odd)
    with pytest.warns(NoManifestWarning), manifest.recording(golden="none"):
        model = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay={"file": odd})
        saved_into_memory(model)
    assert not (folder / RUN_RECORD).exists()


def test_model_when_its_config_cannot_be_written_down_then_is_made_all_the_same(folder):
    config = transformers.ViTConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=32, image_size=32, patch_size=16
    )
    config.note = object()
    with pytest.warns(NoManifestWarning, match="--model NAME"), manifest.recording(golden="none"):
        saved_into_memory(transformers.ViTModel(config))
    assert not (folder / RUN_RECORD).exists()


def test_models_when_there_are_many_then_the_last_ones_are_on_record(folder):
    with pytest.warns(NoManifestWarning), manifest.recording(golden="none"):
        for classes in range(MOST_MODELS + 2):
            tell_of(nn.Identity(), Creation("test_vit", {"num_classes": classes}, family="timm"))
        saved_into_memory(nn.Linear(2, 2))
    made = read_run_record(folder / RUN_RECORD)
    assert len(made) == MOST_MODELS
    assert made[0].arguments == {"num_classes": MOST_MODELS + 1}


def test_recording_when_all_was_seen_then_writes_no_record(folder):
    model = timm.create_model("test_resnet")
    with warnings.catch_warnings(), manifest.recording(golden="none"):
        warnings.simplefilter("error")
        (folder / "model.pt").write_bytes(saved_into_memory(model))
    assert sorted(path.name for path in folder.iterdir()) == ["model.pt", "model.pt.manifest.json"]

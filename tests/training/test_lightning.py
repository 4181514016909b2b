"""Lightning's Trainer with the callback: a timm model inside a LightningModule, some steps, and what they leave."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader, TensorDataset

import manifest
from manifest.errors import NoManifestWarning
from manifest.signing import generate_keys
from manifest.storage.sidecars import has_manifest
from manifest.storage.transaction import read_manifest
from manifest.workflows.converting import convert

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:lightning")


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_vit", num_classes=4, img_size=32, drop_rate=0.5)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def callback(**options: Any) -> Any:
    return manifest.lightning.ManifestCallback(**{"floor": "none", **options})


def fit(folder: Path, *callbacks: Any, steps: int = 4, resume: Path | None = None, **trainer: Any) -> Any:
    """Train for some steps, saving after every second, and keep the last checkpoint and a link to it."""
    pl.seed_everything(3, verbose=False)
    module = trainer.pop("module", Classifier)()
    images = torch.randn(8, 3, 32, 32)
    data = DataLoader(TensorDataset(images, torch.arange(8) % 4), batch_size=2, shuffle=True)
    saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_last="link")
    trainer |= {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=steps, callbacks=[saving, *callbacks], **trainer).fit(module, data, ckpt_path=resume)
    return module


def passes(path: Path) -> bool:
    return manifest.verify(path).exit_code == 0


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A fit with the callback: the module, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("described")
    return fit(folder, callback()), folder


def test_fit_when_it_is_over_then_the_checkpoint_passes_and_loads_as_the_inner_model(described):
    module, folder = described
    assert passes(folder / "step=4.ckpt")
    state = read_manifest(folder / "step=4.ckpt").checkpoint.state
    assert (state.path, state.prefix) == (["state_dict"], "model.")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(manifest.load(folder / "step=4.ckpt")(images), module.model.eval()(images))


class Learner(Classifier):
    """Its model has another name, and beside it is a loss with weights of its own."""

    def __init__(self) -> None:
        pl.LightningModule.__init__(self)
        self.criterion = torch.nn.Linear(4, 4)
        self.net = torch.compile(timm.create_model("test_vit", num_classes=4, img_size=32), backend="eager")

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self.criterion(self.net(batch[0])).square().mean()


def test_fit_when_the_module_holds_more_than_a_model_then_the_model_is_described(tmp_path):
    module = fit(tmp_path, callback(), module=Learner)
    saved = tmp_path / "step=4.ckpt"
    assert passes(saved)
    record = read_manifest(saved).checkpoint
    assert (record.state.path, record.state.prefix) == (["state_dict"], "net._orig_mod.")
    assert "state_dict.criterion" in record.extras
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(manifest.load(saved)(images), module.net.eval()(images))
    convert(saved, tmp_path / "net.safetensors")
    assert passes(tmp_path / "net.safetensors")


def test_fit_when_a_checkpoint_is_removed_then_its_sidecars_are(described):
    assert sorted(path.name for path in described[1].iterdir()) == [
        "last.ckpt",
        "step=4.ckpt",
        "step=4.ckpt.manifest.json",
    ]


def test_fit_when_last_is_a_link_then_its_manifest_is_that_of_what_it_leads_to(described):
    last = described[1] / "last.ckpt"
    assert last.is_symlink()
    assert passes(last)


def test_fit_when_there_is_no_callback_then_the_weights_are_bit_equal(described, tmp_path):
    plain = fit(tmp_path).state_dict()
    watched = described[0].state_dict()
    assert plain.keys() == watched.keys()
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


@pytest.mark.usefixtures("described")
def test_fit_when_it_is_over_then_everything_is_put_back():
    assert torch.save.__module__ == "torch.serialization"
    assert not hasattr(torch.save, "__wrapped__")
    assert not hasattr(pl.Trainer.save_checkpoint, "__wrapped__")


def test_fit_when_it_resumes_then_it_goes_on_and_describes_what_it_saves(described, tmp_path):
    fit(tmp_path, callback(golden="none"), steps=6, resume=described[1] / "step=4.ckpt")
    assert passes(tmp_path / "step=6.ckpt")
    assert torch.load(tmp_path / "step=6.ckpt", weights_only=False)["global_step"] == 6


def test_fit_when_it_raises_then_saves_are_described_and_everything_is_put_back(tmp_path):
    class Failing(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, callback(golden="none"), Failing())
    assert passes(tmp_path / "step=2.ckpt")
    assert not hasattr(torch.save, "__wrapped__")


def test_fit_when_another_thread_saves_then_the_training_thread_describes_it(tmp_path):
    fit(tmp_path, callback(), plugins=[AsyncCheckpointIO()])
    assert passes(tmp_path / "step=4.ckpt")


def test_fit_when_only_the_last_is_asked_then_it_has_golden_outputs(tmp_path):
    fit(tmp_path, callback(golden="last"))
    assert read_manifest(tmp_path / "step=4.ckpt").golden


def test_fit_when_it_is_signed_then_the_signature_holds(tmp_path):
    private, public = generate_keys(tmp_path / "release")
    fit(tmp_path, callback(key=private, golden="none", dataset="noise"))
    assert manifest.verify(tmp_path / "step=4.ckpt", key=public, fast=True).exit_code == 0
    assert "noise" in (tmp_path / "step=4.ckpt.manifest.json").read_text()


def test_fit_when_the_strategy_saves_in_parts_then_they_are_left_alone_and_told(tmp_path):
    class InParts(SingleDeviceStrategy):
        def save_checkpoint(self, checkpoint: Any, filepath: Any, storage_options: Any = None) -> None:
            del storage_options
            Path(filepath).mkdir(parents=True, exist_ok=True)
            torch.save(checkpoint["epoch"], Path(filepath) / "meta.pt")

    with pytest.warns(NoManifestWarning, match=r"step=4.ckpt: InParts saves what each process has"):
        fit(tmp_path, callback(), strategy=InParts(device="cpu"))
    assert not has_manifest(tmp_path / "step=4.ckpt")


def test_recording_when_lightning_runs_without_the_callback_then_saves_are_described(tmp_path):
    with manifest.recording(golden="none") as recorder:
        fit(tmp_path)
    assert [path.name for path in recorder.described][-1] == "step=4.ckpt"
    assert passes(tmp_path / "step=4.ckpt")


def test_recording_when_there_is_one_inside_then_that_one_sees_what_is_saved(tmp_path):
    with manifest.recording(golden="none") as outer:
        fit(tmp_path, callback())
    assert outer.described == []
    assert read_manifest(tmp_path / "step=4.ckpt").golden


def test_lightning_when_it_is_not_installed_then_one_sentence_says_so(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "manifest.training.lightning", raising=False)
    with pytest.raises(AttributeError, match=r"^manifest\.lightning needs the library lightning, .*\[lightning\]'`$"):
        _ = manifest.lightning

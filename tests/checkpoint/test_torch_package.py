"""torch.package: weights in its pickles are read, its source is named and never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.package import PackageExporter, package_exporter

from manifest.checkpoint import open_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")


@pytest.fixture
def export(tmp_path) -> Callable[..., Path]:
    """A package of these pickles, by resource name, and of some source."""

    def exported(*, source: dict[str, str] | None = None, text: dict[str, str] | None = None, **pickles: Any) -> Path:
        path = tmp_path / "model.pt"
        with PackageExporter(path) as exporter:
            exporter.extern(["torch.**", "numpy.**"])
            for module, code in (source or {}).items():
                exporter.save_source_string(module, code)
            for name, value in (text or {}).items():
                exporter.save_text("notes", name, value)
            for name, value in pickles.items():
                exporter.save_pickle(name, "model.pkl", value)
        return path

    return exported


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LSTM(4, 2))


def test_state_dict_when_in_a_package_then_is_read(export, model, check_weights):
    with open_checkpoint(export(weights=model.state_dict())) as checkpoint:
        assert checkpoint.container == "torch-package"
        assert checkpoint.state_path == ("weights/model.pkl",)
        check_weights(checkpoint, model.state_dict())


def test_module_when_in_a_package_then_its_parameters_and_buffers_are_read(export, model, check_weights):
    model.register_buffer("scratch", torch.ones(2), persistent=False)
    path = export(model=model)
    with open_checkpoint(path) as checkpoint:
        check_weights(checkpoint, model.state_dict())
        assert "torch.nn.modules.container.Sequential" in checkpoint.globals
    loaded = torch.package.PackageImporter(path).load_pickle("model", "model.pkl")
    with open_checkpoint(path) as checkpoint:
        check_weights(checkpoint, loaded.state_dict())


def test_class_when_its_source_is_packaged_then_its_module_is_read_and_not_run(export, tmp_path):
    trap = tmp_path / "trap"
    source = f"open({str(trap)!r}, 'w')\n"
    with open_checkpoint(export(source={"hostile": source}, model={"w": torch.ones(2)})) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.contents.code == ("hostile.py",)
    assert not trap.exists()


def test_pickles_when_several_hold_weights_then_are_all_candidates(export, model, check_weights):
    average = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    path = export(notes={"epoch": 3}, net=model.state_dict(), other={"epoch": 3, "ema": {**average, "version": 1}})
    with open_checkpoint(path) as checkpoint:
        assert [candidate.path for candidate in checkpoint.candidates] == [
            ("net/model.pkl",),
            ("other/model.pkl", "ema"),
        ]
        assert set(checkpoint.extras) == {"notes/model.pkl", "other/model.pkl"}
        assert set(checkpoint.candidates[1].extras) == {
            "other/model.pkl.epoch",
            "other/model.pkl.ema.version",
            "notes/model.pkl",
            "net/model.pkl",
        }
        check_weights(checkpoint, model.state_dict())
        check_weights(checkpoint.select(("other/model.pkl", "ema")), average)


def test_storages_when_shared_between_pickles_then_are_one(export):
    shared = torch.arange(6.0)
    with open_checkpoint(export(a={"w": shared, "tied": shared, "part": shared[2:4]}, b={"v": shared})) as checkpoint:
        assert checkpoint.aliases() == {"tied": "w"}
        first, second = checkpoint.candidates
        assert first.tensors["w"].storage == second.tensors["v"].storage


def test_views_and_types_when_in_a_package_then_digest_as_their_values(export, check_weights):
    flat = torch.arange(24.0)
    state = {
        "turned": flat.reshape(4, 6).t(),
        "half": flat.half()[::3],
        "brain": flat.bfloat16(),
        "conj": torch.randn(3, dtype=torch.complex64).conj(),
        "count": torch.tensor(3),
        "truth": flat > 3,
    }
    with open_checkpoint(export(weights=state)) as checkpoint:
        check_weights(checkpoint, state)


def test_resources_when_no_pickles_then_are_extras(export):
    with open_checkpoint(export(text={"readme.txt": "x"}, weights={"w": torch.ones(2)})) as checkpoint:
        assert checkpoint.extras == ("notes/readme.txt",)


def test_package_when_no_pickle_holds_weights_then_is_refused(export, refusal):
    error = refusal(export(notes={"epoch": 3}))
    assert error.rule == "F001"
    assert "whose 1 pickles hold no weights" in str(error)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_when_in_a_package_then_the_weights_beside_it_are_read(export, monkeypatch):
    monkeypatch.setattr(package_exporter, "_gate_torchscript_serialization", False)
    saved = {"program": torch.jit.script(nn.Linear(3, 2)), "w": torch.ones(3)}
    with open_checkpoint(export(net=saved)) as checkpoint:
        assert list(checkpoint.tensors) == ["w"]
        assert checkpoint.extras == ("net/model.pkl.program",)
        assert all(name.endswith(".py") for name in checkpoint.contents.code)
        assert checkpoint.contents.code

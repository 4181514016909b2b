"""Recording without a block and without `manifest run`: from a call, a notebook's extension, or the environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch

import manifest
from manifest.errors import InputError
from manifest.training.settings import RECORD, RecordSettings


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


@pytest.fixture(autouse=True)
def stopped():
    yield
    manifest.recording.stop()


def test_recording_when_started_then_saves_are_described_until_it_is_stopped(model, tmp_path):
    recorder = manifest.recording.start(golden="none")
    torch.save(model.state_dict(), tmp_path / "first.pt")
    manifest.recording.stop()
    torch.save(model.state_dict(), tmp_path / "second.pt")
    assert [path.name for path in recorder.described] == ["first.pt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.pt", "first.pt.manifest.json", "second.pt"]


def test_recording_when_started_twice_then_the_second_goes_on_alone(model, tmp_path):
    first = manifest.recording.start(golden="none")
    second = manifest.recording.start(golden="none", dataset="other")
    torch.save(model.state_dict(), tmp_path / "ckpt.pt")
    manifest.recording.stop()
    assert (first.described, second.described) == ([], [tmp_path / "ckpt.pt"])


def test_recording_when_an_argument_is_wrong_then_nothing_was_started(model, tmp_path):
    with pytest.raises(InputError, match="golden is 'sometimes'"):
        manifest.recording.start(golden="sometimes")
    torch.save(model.state_dict(), tmp_path / "ckpt.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


def test_extension_when_loaded_in_a_notebook_then_records_by_the_variables(model, tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFEST_GOLDEN", "none")
    monkeypatch.setenv("MANIFEST_DATASET", "digits")
    manifest.load_ipython_extension(None)
    torch.save(model.state_dict(), tmp_path / "ckpt.pt")
    manifest.unload_ipython_extension(None)
    assert manifest.verify(tmp_path / "ckpt.pt", fast=True).passed
    assert '"dataset": "digits"' in (tmp_path / "ckpt.pt.manifest.json").read_text()


@pytest.mark.parametrize("value", [None, "", "0"])
def test_variables_when_they_ask_for_nothing_then_nothing_is_recorded(value):
    assert RecordSettings.of({} if value is None else {RECORD: value}) is None


def test_settings_when_written_as_variables_then_are_read_as_they_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = RecordSettings(
        key="release.key", golden="last", floor="none", partial=("head", "neck"), dataset="a, b", strict=True
    )
    variables = asked.variables()
    key = os.fspath(Path.cwd() / "release.key")
    assert RecordSettings.of(variables) == RecordSettings(**{**vars(asked), "key": key})
    assert RecordSettings.of({**variables, "MANIFEST_KEY": "env:KEY"}).variables()["MANIFEST_KEY"] == "env:KEY"

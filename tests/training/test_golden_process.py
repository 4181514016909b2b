"""Golden outputs of large checkpoints come out of a process of their own, and the training does not wait for them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import timm
import torch

import manifest
from manifest.capture import golden_process
from manifest.capture.golden_process import GoldenProcess
from manifest.errors import NoManifestWarning
from manifest.storage.transaction import read_manifest
from manifest.training import model_capture
from manifest.training import recorder as recorder_module
from manifest.training.recording import recording
from tests.warm import warm_run


@pytest.fixture(autouse=True)
def _every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_capture, "_LARGE", 0)


@pytest.fixture(scope="module")
def shared() -> Iterator[GoldenProcess]:
    """One process for all of these tests, since it takes seconds to start."""
    process = GoldenProcess()
    yield process
    process.end()


@pytest.fixture
def one_process(shared: GoldenProcess, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the process was asked to read."""
    asked = []
    ask = GoldenProcess.ask

    def note(_: GoldenProcess, question: Any) -> Any:
        asked.append(question.path)
        return ask(shared, question)

    monkeypatch.setattr(model_capture.GoldenProcess, "ask", note)
    return asked


def trained(name: str = "test_vit", size: int = 160) -> Any:
    model = timm.create_model(name, num_classes=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.randn(2, 3, size, size)).square().mean().backward()
    optimizer.step()
    return model


def test_outputs_are_those_that_the_model_in_memory_gives(one_process: list[str], tmp_path: Path) -> None:
    with recording() as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "a.pt")
        with torch.no_grad():
            next(model.parameters()).add_(0.1)
        torch.save({"epoch": 1, "state_dict": model.state_dict()}, tmp_path / "b.pt")
    assert not recorder.failed
    assert len(one_process) == 2
    saved = manifest.save(model, tmp_path / "c.pt")
    first, second = (read_manifest(tmp_path / name).golden for name in ("a.pt", "b.pt"))
    assert saved is not None
    assert second == saved.golden
    assert first[0].outputs != second[0].outputs
    assert manifest.verify(tmp_path / "a.pt").passed


def test_checkpoint_that_is_renamed_copied_and_removed_meanwhile_has_its_outputs(
    one_process: list[str], tmp_path: Path
) -> None:
    with recording() as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "tmp.pt")
        (tmp_path / "tmp.pt").replace(tmp_path / "moved.pt")
        torch.save(model.state_dict(), tmp_path / "other.pt")
        shutil.copy(tmp_path / "other.pt", tmp_path / "copy.pt")
        (tmp_path / "other.pt").unlink()
    assert not recorder.failed
    assert len(one_process) == 2
    for name in ("moved.pt", "copy.pt"):
        assert manifest.verify(tmp_path / name).passed
        assert read_manifest(tmp_path / name).golden


@pytest.mark.usefixtures("one_process")
def test_model_whose_code_was_changed_unseen_gets_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    average = {name: 0.9 * value if value.is_floating_point() else value for name, value in model.state_dict().items()}
    plain = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, x: 2 * plain(self, x))
    with pytest.warns(NoManifestWarning, match="rebuilt model gives other logits"), recording() as recorder:
        torch.save(average, tmp_path / "average.pt")  # of which nobody in memory can be asked
        torch.save(model.state_dict(), tmp_path / "a.pt")
    assert [path.name for path in recorder.described] == ["average.pt"]
    assert [path.name for path, _ in recorder.failed] == ["a.pt"]


@pytest.mark.usefixtures("one_process")
def test_diverged_model_gets_no_manifest(tmp_path: Path) -> None:
    with pytest.warns(NoManifestWarning, match="NaN or infinity"), recording() as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "a.pt")
        with torch.no_grad():
            model.head.weight.fill_(float("nan"))
        torch.save(model.state_dict(), tmp_path / "b.pt")
    assert [path.name for path in recorder.described] == ["a.pt"]


def test_manifest_has_no_outputs_where_the_process_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = GoldenProcess._start

    def start_and_kill(process: GoldenProcess) -> None:
        start(process)
        assert process._process is not None
        process._process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(GoldenProcess, "_start", start_and_kill)
    killed = pytest.warns(UserWarning, match=r"without golden outputs: .* ended \(exit status -9\)")
    with killed, recording() as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "a.pt")
    assert not recorder.failed
    assert not read_manifest(tmp_path / "a.pt").golden
    assert manifest.verify(tmp_path / "a.pt").passed


def test_manifest_has_no_outputs_where_the_process_cannot_build_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(golden_process, "_START", "import sys, timm; del timm.create_model; " + golden_process._START)
    unable = pytest.warns(UserWarning, match="without golden outputs: timm cannot build test_vit")
    with unable, recording() as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "a.pt")
    assert not recorder.failed
    assert not read_manifest(tmp_path / "a.pt").golden


def test_save_that_waits_for_earlier_ones_says_so_once(
    shared: GoldenProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    ask = GoldenProcess.ask

    def wait_and_ask(_: GoldenProcess, question: Any) -> Any:
        go_on.wait()
        return ask(shared, question)

    monkeypatch.setattr(recorder_module, "_WAITING", 1)
    monkeypatch.setattr(GoldenProcess, "ask", wait_and_ask)
    threading.Timer(1.0, go_on.set).start()
    with pytest.warns(UserWarning) as said, recording() as recorder:
        model = trained()
        for number in range(5):
            torch.save(model.state_dict(), tmp_path / f"{number}.pt")
    assert [str(each.message).partition(":")[0] for each in said] == ["Saves come faster than their manifests"]
    assert len(recorder.described) == 5


def test_probe_with_functions_of_the_users_own_is_asked_at_once(one_process: list[str], tmp_path: Path) -> None:
    from PIL import Image

    def prepare(image: Image.Image) -> torch.Tensor:
        return torch.full((3, 160, 160), float(image.width))

    own = manifest.Probe("own", {"grey": Image.new("RGB", (8, 8))}, preprocess=prepare)
    with recording(probes=[own]) as recorder:
        model = trained()
        torch.save(model.state_dict(), tmp_path / "a.pt")
    assert not recorder.failed
    assert not one_process
    assert [golden.probe for golden in read_manifest(tmp_path / "a.pt").golden] == ["photos/1", "user/own"]


OWN = """
    import os

    import timm
    import torch
    from torch import nn

    import manifest
    from manifest.training import model_capture

    open("ran", "a").write("x")

    class Net(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 3))

        def forward(self, x):
            return self.body(x)

    model_capture._LARGE = 0
    ask = model_capture.GoldenProcess.ask
    model_capture.GoldenProcess.ask = lambda *question: open("asked", "a").write("x") and ask(*question)
    manifest.recording.start(example_inputs={"x": torch.zeros(2, 8)}, strict=True)
    model = Net(16)
    model(torch.randn(2, 8)).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad)
    torch.save(model.state_dict(), "net.pt")
    vision = timm.create_model("test_vit")
    with torch.no_grad():
        for parameter in vision.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    child = os.fork()
    torch.save(model.state_dict(), "parent.pt" if child else "child.pt")
    torch.save(vision.state_dict(), "vision_of_parent.pt" if child else "vision_of_child.pt")
    if child:
        os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_network_of_a_script_is_asked_without_running_the_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(dedent(OWN))
    done = warm_run([script], tmp_path)
    assert done.returncode == 0, done
    assert not done.stderr
    assert (tmp_path / "ran").read_text() == "x"
    assert (tmp_path / "asked").read_text() == "xxxxx"
    for name in ("net.pt", "parent.pt", "child.pt", "vision_of_parent.pt", "vision_of_child.pt"):
        assert manifest.verify(tmp_path / name, allow=[str(script)]).passed
        assert read_manifest(tmp_path / name).golden

"""`progress=`: who follows long work from Python."""

from __future__ import annotations

import io
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.numpy import save_file

import manifest
from manifest import progress
from manifest.progress import Step, following
from tests.large import sparse_file


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that takes a second to read."""
    return sparse_file(tmp_path / "large.safetensors", 2 << 30)


def test_function_is_called_with_steps_and_their_bytes(large: Path) -> None:
    steps: list[Step] = []
    manifest.audit(large, progress=steps.append)
    read = [step for step in steps if step.name == "numbers"]
    assert {step.total for step in read} == {2 << 30}
    assert 0 < max(step.done for step in read) <= 2 << 30
    assert [step.done for step in read] == sorted(step.done for step in read)
    assert progress.now.step is None


def test_bar_is_that_of_tqdm(large: Path) -> None:
    shown = io.StringIO()
    with redirect_stderr(shown):
        manifest.audit(large, progress=True)
    assert "numbers: " in shown.getvalue()
    assert "G/2.15G [" in shown.getvalue()


def test_bar_without_tqdm_says_what_to_do(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(manifest.LibraryMissingError, match="needs tqdm: `pip install tqdm`, or give a function"):
        manifest.audit(large, progress=True)


def test_function_that_fails_is_told_of_and_changes_nothing(large: Path) -> None:
    calls: list[Step] = []

    def fail(step: Step) -> None:
        calls.append(step)
        raise ZeroDivisionError("by me")

    with pytest.warns(UserWarning, match=r"failed, and was not called again: ZeroDivisionError\('by me'\)") as said:
        report = manifest.audit(large, progress=fail)
    assert report.rungs[0].outcome == "pass"
    assert len(calls) == 1
    assert [Path(each.filename) for each in said] == [Path(__file__)]


def test_every_function_that_takes_long_can_be_followed(
    tmp_path: Path, digits: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = progress.begin

    def begin_and_wait(name: str, total: int = 0) -> None:
        begin(name, total)
        while not steps or steps[-1].name != name:
            time.sleep(0.001)

    monkeypatch.setattr(progress, "begin", begin_and_wait)
    monkeypatch.setattr(following, "__kwdefaults__", {"between": 0.001})
    steps: list[Step] = []
    model: Any = manifest.load(digits.WEIGHTS, progress=steps.append)
    path = tmp_path / "a.pt"
    calls = {
        "save": lambda follow: manifest.save(model, path, golden=False, progress=follow),
        "verify": lambda follow: manifest.verify(path, fast=True, progress=follow),
        "load": lambda follow: manifest.load(path, progress=follow),
        "convert": lambda follow: manifest.convert(path, tmp_path / "b.safetensors", progress=follow),
        "diff": lambda follow: manifest.diff(path, tmp_path / "b.safetensors", progress=follow),
    }
    for name, call in calls.items():
        steps.clear()
        call(steps.append)
        assert steps, name
        assert progress.now.step is None


def test_arguments_and_results_are_as_without(tmp_path: Path) -> None:
    import numpy as np

    save_file({"weight": np.ones((3, 3), np.float32)}, tmp_path / "a.safetensors")
    plain = manifest.audit(tmp_path / "a.safetensors")
    with_bar = manifest.audit(tmp_path / "a.safetensors", progress=lambda step: None)  # noqa: ARG005
    assert [rung.reason for rung in plain.rungs] == [rung.reason for rung in with_bar.rungs]
    assert manifest.audit.__doc__ is not None
    assert "progress:" in manifest.audit.__doc__

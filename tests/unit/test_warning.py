"""Warnings show the line of the program that led to them, however deep in this package they come up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import manifest
from manifest.warning import warn


class Starred(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)


def record(path: Path) -> None:
    model = Starred(2, 2)
    with manifest.recording(golden="none"):
        torch.save(model.state_dict(), path)


def seed(path: Path) -> None:
    del path
    with manifest.deterministic(seed=3, warn_only=True):
        torch.rand(1)


@pytest.mark.parametrize("act", [record, seed])
def test_warning_when_it_comes_up_then_shows_the_line_of_the_program(
    act: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.warns(UserWarning) as caught:
        act(tmp_path / "x.pt")
    assert {each.filename for each in caught} == {__file__}


def test_warning_when_a_thread_has_no_other_line_then_is_still_given() -> None:
    with pytest.warns(UserWarning, match="by itself"):
        thread = threading.Thread(target=warn, args=("by itself",))
        thread.start()
        thread.join()

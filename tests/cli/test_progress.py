"""A command that takes long says on a terminal what it is doing, and leaves nothing of that behind."""

from __future__ import annotations

import io
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import torch

from manifest import progress
from manifest.cli import main, printing
from manifest.progress import Progress, Step


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One on which nobody waits before something is shown."""
    monkeypatch.setattr(printing, "_PATIENCE", 0.0)
    monkeypatch.setattr(printing, "_BETWEEN", 0.001)
    monkeypatch.setattr(progress, "now", Progress())
    return Terminal()


def wait_for(terminal: Terminal, text: str) -> None:
    for _ in range(10_000):
        if text in terminal.getvalue():
            return
        time.sleep(0.001)
    raise AssertionError(terminal.getvalue()[-300:])


@pytest.mark.parametrize(
    ("subject", "step", "words"),
    [
        ("", Step("architecture"), "architecture, 10 s"),
        ("a.pt", Step("integrity", total=2_000_000_000), "a.pt: integrity, 10 s"),
        ("", Step("integrity", 2_000_000_000, 1_000_000_000), "integrity, 1.0 of 2.0 GB, 0.1 GB/s, 10 s left"),
        ("", Step("writing", 1_000_000_000, 4_000_000_000), "writing, 1.0 of 1.0 GB, 0.4 GB/s, 0 s left"),
        ("3 of 9, \x1b[2Ja.pt", Step("format"), r"3 of 9, \x1b[2Ja.pt: format, 10 s"),
    ],
)
def test_step_in_words(subject: str, step: Step, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.now, "subject", subject)
    step.began = time.monotonic() - 10
    assert printing.progress_words(step) == words


def test_line_is_gone_before_a_result_is_printed(terminal: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    with redirect_stderr(terminal), printing.showing_progress(shown=True):
        progress.begin("integrity")
        wait_for(terminal, "integrity, 0 s")
        printing.emit("the result", None)
        assert terminal.getvalue().endswith("\r\x1b[K")
        assert capsys.readouterr().out == "the result\n"
        progress.begin("format")
        wait_for(terminal, "format, 0 s")
        printing.complain("a sentence")
        assert "\r\x1b[Kmanifest: a sentence\n" in terminal.getvalue()
        wait_for(terminal, "a sentence\n\r\x1b[Kformat, 0 s")
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("quiet", [False, True])
def test_command_says_what_it_does_unless_it_is_to_be_quiet(
    quiet: bool, terminal: Terminal, digits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = progress.begin

    def begin_and_wait(name: str, total: int = 0) -> None:
        begin(name, total)
        if not quiet:
            wait_for(terminal, name)

    monkeypatch.setattr(progress, "begin", begin_and_wait)
    monkeypatch.setattr(sys, "argv", ["manifest", "verify", "--fast", *["-q"] * quiet, str(digits.WEIGHTS)])
    with redirect_stderr(terminal), pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert bool(terminal.getvalue()) is not quiet
    if not quiet:
        assert f"{Path(digits.WEIGHTS).name}: integrity, " in terminal.getvalue()


def test_nothing_is_shown_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printing, "_PATIENCE", 0.0)
    with redirect_stderr(io.StringIO()) as file, printing.showing_progress(shown=True):
        progress.begin("integrity")
        time.sleep(0.3)
    assert file.getvalue() == ""


def test_golden_outputs_are_told_step_by_step(digits: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import manifest

    steps: list[str] = []
    monkeypatch.setattr(progress, "begin", lambda name, total=0: steps.append(name))  # noqa: ARG005
    model = manifest.load(digits.WEIGHTS, verify="none")
    assert isinstance(model, torch.nn.Module)
    manifest.save(model, tmp_path / "a.pt")
    told = [step.removeprefix("golden outputs: ") for step in steps if step.startswith("golden outputs")]
    assert [step for step in told if step.startswith("numerics floor")] == [
        f"numerics floor, {cause}" for cause in ("repeat", "threads", "attention", "kernels")
    ]
    assert {"golden outputs", "layers", "wrong architectures", "what they reach"} <= set(told)

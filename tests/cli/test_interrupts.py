"""Ctrl-C: a command ends at once, in a line, with the exit code of an interrupt, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.large import sparse_file

INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from manifest.cli import main
main()
"""
"""A command as a terminal starts it; what runs in the background may have been told to ignore interrupts."""


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that takes minutes to read."""
    return sparse_file(tmp_path / "large.safetensors", 500 << 30)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["audit", "large.safetensors"], id="while two threads look at the numbers"),
        pytest.param(["convert", "large.safetensors", "out.safetensors"], id="while digests are taken"),
    ],
)
def test_command_when_interrupted_then_ends_at_once_and_leaves_nothing(command: list[str], large: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *command, "--verbose"],
        cwd=large.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "opened" not in (line := process.stderr.readline()):
            assert line, "it ended before it had opened the file"
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "manifest: interrupted; no file was left half-written."
    assert "Traceback" not in err
    assert list(large.parent.iterdir()) == [large]


def test_command_with_processes_when_interrupted_then_ends_in_a_line(tmp_path: Path) -> None:
    """A terminal interrupts all of them at once."""
    for number in range(60):
        sparse_file(tmp_path / f"{number:02}.safetensors", 512 << 20, side=1 << 12)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "audit", str(tmp_path), "--verbose"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while "opened" not in (line := process.stderr.readline()):
            assert line, "it ended before it had opened a file"
        os.killpg(process.pid, signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "manifest: interrupted; no file was left half-written."
    assert "Traceback" not in err


def test_command_when_interrupts_are_ignored_then_goes_on(tmp_path: Path) -> None:
    """As under `nohup`: whoever ignores them before it starts means it."""
    program = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.argv = ['manifest', 'rule'];"
        "from manifest.cli import main; os.kill(os.getpid(), signal.SIGINT); main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done
    assert "C003" in done.stdout

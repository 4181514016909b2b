"""Running a command as the shell would, with every Python process under it recorded."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from manifest.errors import InputError
from manifest.training.account import FOLDER, Told, gather

_FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_FROM_TERMINALS = ("SIGINT", "SIGQUIT")


def run_command(command: Sequence[str], variables: Mapping[str, str]) -> tuple[int, Told]:
    """Run a command to its end; signals that this process gets are passed on to it.

    Args:
        command: Any command. Before the name of a Python script, or `-m`, `python` may be left out.
        variables: Added to its environment.

    Returns:
        Its exit status, as `subprocess` gives it: negative where a signal ended it. And what its processes told.

    Raises:
        InputError: There is no such command, or it cannot be run.
    """
    words = _whole(command)
    with tempfile.TemporaryDirectory(prefix="manifest-run-") as folder:
        environment = {**os.environ, "PATH": _path_with_this_python(), **variables, FOLDER: folder}
        found = shutil.which(words[0], path=environment["PATH"])
        if found is None:
            raise InputError(f"There is no command {words[0]}; check its name, or its path.")
        with _Forwarding() as forwarding:
            try:
                process = subprocess.Popen(words, executable=found, env=environment)
            except OSError as error:
                raise InputError(f"{words[0]} cannot be run: {error.strerror}; check the file.") from None
            forwarding.to(process)
            code = process.wait()
        return code, gather(Path(folder))


def end_as(code: int) -> int:
    """End as a command did: by its signal, where one ended it; otherwise its exit status is returned."""
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


def _whole(command: Sequence[str]) -> list[str]:
    """A command with `python` before what only Python runs."""
    words = list(command)
    if words[0].startswith("-") or (words[0].endswith(".py") and not os.access(words[0], os.X_OK)):
        return [sys.executable, *words]
    return words


def _path_with_this_python() -> str:
    """Where commands are looked for: this Python's own among them, as if its environment had been activated."""
    own = str(Path(sys.executable).parent)
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(places if own in places else [own, *places])


class _Forwarding:
    """Passes signals on to a process; a context manager, after which they are this process's own again."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Forwarding:
        for name in _FORWARDED:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` stays `nohup`
                self._before[number] = signal.signal(number, self._forward)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def to(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what has come, and what comes."""
        self._process = process
        for number in self._early:
            process.send_signal(number)

    def _forward(self, number: int, _: FrameType | None) -> None:
        if signal.Signals(number).name in _FROM_TERMINALS and _is_in_the_foreground():
            return  # the terminal has sent it to the command as well
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)


def _is_in_the_foreground() -> bool:
    """Whether this process has a terminal, whose keys interrupt it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)

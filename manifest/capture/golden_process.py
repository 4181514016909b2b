"""Golden outputs in a process of their own, so that a training does not wait for them.

The process reads the weights from the file and builds the model from its architecture, with lower priority than the
training has. It answers one question after the other, and ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any

import torch

from manifest.capture.description import description_of_file
from manifest.capture.options import RecordOptions
from manifest.checkpoint import Checkpoint, View, open_checkpoint
from manifest.errors import ManifestError, one_line
from manifest.escaping import printable
from manifest.golden.subprocess_run import environment_of_child
from manifest.grants import granted
from manifest.schema.document import Architecture, Golden

_log = logging.getLogger(__name__)

AVAILABLE = os.name == "posix"
"""Whether a process can be given an open connection here."""
_SECONDS = 1800
_NICER = 10
_START = """
from manifest.collecting import collect_seldom
collect_seldom()
import sys
from manifest.capture.golden_process import serve
serve(int(sys.argv[1]))
"""


class NoOutputsError(Exception):
    """The process could not build the model, or ended."""


@dataclass(frozen=True)
class Question:
    """Which golden outputs are wanted, of what.

    Attributes:
        path: Where the file can be read.
        view: Which weights in it are meant.
        architecture: What the model is built from.
        options: What is recorded of it; nobody signs.
        runs: The user's own code that building it runs.
        threads: Threads to compute on.
    """

    path: str
    view: View
    architecture: Architecture
    options: RecordOptions
    runs: Sequence[str]
    threads: int


@dataclass(frozen=True)
class _Reply:
    golden: list[Golden] = field(default_factory=list)
    refused: str = ""
    unable: str = ""


class GoldenProcess:
    """The other process, started by the first question; for one thread alone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, question: Question) -> list[Golden]:
        """The golden outputs of a model.

        Raises:
            ManifestError: The model has none that can be recorded, such as one that answers with NaN.
            NoOutputsError: They could not be found out.
        """
        started = time.perf_counter()
        if self._process is None:
            self._start()
        try:
            self._connection.send(question)
            if not self._connection.poll(_SECONDS):
                raise NoOutputsError(f"it took longer than {_SECONDS:,} s")
            reply: _Reply = self._connection.recv()
        except (EOFError, OSError):
            raise NoOutputsError(f"the process that asks the model ended ({self._last_words()})") from None
        except NoOutputsError:
            self.end()
            raise
        if reply.unable:
            raise NoOutputsError(reply.unable)
        if reply.refused:
            raise ManifestError(reply.refused)
        _log.debug("golden outputs took %.2f s in a process of their own", time.perf_counter() - started)
        return reply.golden

    def end(self) -> None:
        """Let the process end; it has nothing more to do."""
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._stderr.close()
            self._process = None

    def _start(self) -> None:
        self._connection, other = Pipe()
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(other.fileno())],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env=environment_of_child({"OMP_WAIT_POLICY": "passive"}),
            )

    def _last_words(self) -> str:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        status = self._process.poll()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        self.end()
        return printable(lines[-1], 200) if lines and status and status > 0 else f"exit status {status}"


def readable_path(stored: Checkpoint) -> str:
    """Where another process reads an open checkpoint, also when the script has renamed or removed the file since."""
    file = stored.files[0]
    through = Path(f"/proc/{os.getpid()}/fd/{file.descriptor}")
    found = stored.path if stored.path.is_dir() or not through.exists() else through
    return str(found.absolute())


def serve(descriptor: int) -> None:
    """The other end: answer questions until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: whoever started this decides
    os.nice(_NICER)
    with Connection(descriptor) as asking, contextlib.suppress(EOFError, OSError):
        while True:
            asking.send(_reply(asking.recv()))


def _reply(question: Question) -> _Reply:
    torch.set_num_threads(question.threads)
    with granted(question.runs):
        try:
            stored = open_checkpoint(question.path)
            description = description_of_file(stored.select(question.view), question.architecture, question.options)
        except Exception as error:  # code of the user's own may raise anything
            return _Reply(unable=_said(error))
        with stored:
            try:
                return _Reply(description.golden)
            except Exception as error:
                return _Reply(refused=_said(error))


def _said(error: Any) -> str:
    return str(error) if isinstance(error, ManifestError) else f"{type(error).__name__}: {one_line(error)}"

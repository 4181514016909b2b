"""A command on a terminal of its own, at which somebody types."""

from __future__ import annotations

import os
import pty
import sys


def typed(*arguments: str, answers: tuple[str, ...]) -> tuple[int, str]:
    """Run a command on a terminal, type an answer after each prompt, and return its exit code and what was shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.pop("MANIFEST_PASSPHRASE", None)
        os.execv(sys.executable, [sys.executable, "-m", "manifest", *arguments])
    shown, left = "", list(answers)
    while True:
        try:
            shown += os.read(terminal, 1000).decode()
        except OSError:  # it has ended
            break
        if left and shown.endswith(": "):
            os.write(terminal, f"{left.pop(0)}\n".encode())
            shown += "\n"
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown

"""The start of a Python process whose saves are to be recorded; nothing happens until it imports torch.

A line in `manifest_record.pth`, which is installed beside the package, imports this module wherever the environment
asks for recording: so a process is recorded however it was started, as long as its Python has the package.
"""

from __future__ import annotations

import os
import sys

from manifest.errors import one_line
from manifest.escaping import printable, show_log
from manifest.training.patches import WhenImported, when_libraries_are_imported


def arm() -> None:
    """Have this process recorded from the moment on when it has imported torch."""
    if "torch" in sys.modules:
        _begin()
        return
    waiting = WhenImported()
    waiting.calls["torch"] = [lambda _: when_libraries_are_imported(_begin)]  # which may be what imports torch
    sys.meta_path.insert(0, waiting)


def _begin() -> None:
    """Record what this process saves, until it ends. What fails here is told, and the program runs as without."""
    from manifest.training.settings import RecordSettings

    settings = RecordSettings.of(os.environ)
    if settings is None:
        return
    if settings.verbose:
        show_log()
    try:
        from manifest.training.recording import recording

        recording.start(**settings.keywords())
    except Exception as error:
        if settings.strict:
            raise
        print(f"manifest: process {os.getpid()} is not recorded: {printable(one_line(error), 200)}", file=sys.stderr)

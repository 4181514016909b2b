"""Telling recorders that a file is written by this package, which describes it itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_OWN_WORK = threading.local()


@contextlib.contextmanager
def suppress_recording() -> Iterator[None]:
    """Inside, what this thread writes, renames and removes is this package's doing, and no training's."""
    before = recording_suppressed()
    _OWN_WORK.now = True
    try:
        yield
    finally:
        _OWN_WORK.now = before


def recording_suppressed() -> bool:
    """Whether this thread is inside of `suppress_recording`."""
    return bool(getattr(_OWN_WORK, "now", False))

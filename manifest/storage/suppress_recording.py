"""Telling recorders that a file is written by this package, which describes it itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_OWN_WORK = threading.local()


@contextlib.contextmanager
def own_work() -> Iterator[None]:
    """Inside, what this thread writes, renames and removes is this package's doing, and no training's."""
    before = at_own_work()
    _OWN_WORK.now = True
    try:
        yield
    finally:
        _OWN_WORK.now = before


def at_own_work() -> bool:
    """Whether this thread is inside of `own_work`."""
    return bool(getattr(_OWN_WORK, "now", False))

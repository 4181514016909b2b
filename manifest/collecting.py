"""How often a process of this package's own looks for garbage."""

from __future__ import annotations

import atexit
import gc

_THRESHOLDS = (50_000, 20, 100)


def collect_seldom() -> None:
    """Look for garbage seldom from now on, and not once more when the process ends.

    Importing the model libraries makes a million objects, and all of them stay. By Python's own thresholds a third of
    the time of `manifest verify` of a small checkpoint is spent on looking at them.
    """
    gc.set_threshold(*_THRESHOLDS)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)

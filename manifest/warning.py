"""Warnings that show the line of the user's own program that led to them."""

from __future__ import annotations

import sys
import warnings

_PASSED_OVER = frozenset({"manifest", "concurrent", "contextlib", "functools", "threading"})
"""Packages whose lines tell a user nothing."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line outside of this package that is nearest on the stack."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

"""Pairs of checkpoints of the same name in two places."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from manifest.errors import InputError
from manifest.escaping import printable
from manifest.storage.sidecars import named_checkpoints, require_checkpoint


def pairs(one: str, other: str) -> dict[str, tuple[Path | None, Path | None]]:
    """The checkpoints of two places by their names in these; None where one place has none of that name.

    Args:
        one: A folder, or a pattern such as `runs/*.pt`, whose names are those below `runs`.
        other: The same.

    Raises:
        InputError: One is not there, or is one checkpoint and the other is not.
    """
    then, now = _by_name(one), _by_name(other)
    return {name: (then.get(name), now.get(name)) for name in sorted({*then, *now})}


def _by_name(place: str) -> dict[str, Path]:
    """Checkpoints by their names below a folder, or below the folders that a pattern names in so many words."""
    paths = named_checkpoints([place])
    if paths == [Path(place)]:
        named = require_checkpoint(place)
        raise InputError(
            f"{printable(str(named), 1000)} is one checkpoint, and the other place holds several; "
            "name two checkpoints, or two folders."
        )
    parts = Path(place).parts
    fixed = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return {os.path.relpath(path, Path(*parts[:fixed])): path for path in paths}

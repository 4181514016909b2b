"""Which checkpoints there are under some paths: files, folders of them, patterns.

Folders are walked and symbolic links in them not followed. Files are chosen by the ends of their names here, since a
folder holds anything; what they are is told by their bytes when they are opened.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from manifest.checkpoint.directories import DISTRIBUTED, INDEX, SUFFIXES
from manifest.errors import InputError
from manifest.temporaries import is_temporary

_SUFFIXES = (*SUFFIXES, ".jit")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
MOST_FILES = 100_000


def discover(places: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Every checkpoint under some places, each once, in order.

    A distributed checkpoint is its folder, a sharded one its index. A file that is named is taken whatever its name is,
    and also when it is not there, for whoever opens it to say so.

    Args:
        places: Files, folders, or patterns such as `runs/**/*.pt`.

    Raises:
        InputError: There are more than `MOST_FILES` checkpoints.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        matches = [] if path.exists() else sorted(map(Path, glob.glob(str(place), recursive=True)))  # noqa: PTH207
        for each in matches or [path]:
            for checkpoint in _under(each) if each.is_dir() else [each]:
                found[checkpoint] = None
                if len(found) > MOST_FILES:
                    raise InputError(f"There are more than {MOST_FILES:,} checkpoints; name fewer places.")
    return list(found)


def _under(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_temporary(name))
        here = Path(place)
        if DISTRIBUTED in names:
            folders.clear()
            yield here
            continue
        indexed = {name.removesuffix(INDEX) for name in names if name.endswith(INDEX)}
        for name in sorted(names):
            if name.startswith("."):
                continue
            if name.endswith(INDEX) or (name.endswith(_SUFFIXES) and _SHARD.sub("", name) not in indexed):
                yield here / name

"""Which file of a directory leads to the checkpoint in it.

In this order: the metadata of a distributed checkpoint, the index of a sharded one, and a single file of weights. Only
names are looked at here; what the files are is told by their bytes.
"""

from __future__ import annotations

from pathlib import Path

from manifest.checkpoint.files import stays_home
from manifest.errors import CheckpointError, InputError
from manifest.escaping import printable, printable_list

DISTRIBUTED = ".metadata"
INDEX = ".index.json"
_SAFE = ".safetensors"
SUFFIXES = (_SAFE, ".bin", ".pt", ".pth", ".ckpt", ".npz", ".pt2", ".tar")


def entry(directory: Path) -> Path:
    """The file to open.

    Raises:
        CheckpointError: `F001` when there is none.
        InputError: The directory cannot be listed, or holds several checkpoints.
    """
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise InputError(f"Cannot list {printable(str(directory), 1000)}: {error.strerror}") from None
    if DISTRIBUTED in names:
        return directory / DISTRIBUTED
    for ending in ((INDEX,), SUFFIXES):
        found = [name for name in names if name.endswith(ending) and not name.startswith(".")]
        # The same weights are often there in two forms; the one that cannot hold code is enough.
        chosen = [name for name in found if name.removesuffix(INDEX).endswith(_SAFE)] or found
        if len(chosen) == 1:
            return directory / chosen[0]
        if chosen:
            raise InputError(
                f"{printable(directory.name or str(directory))} has {len(chosen)} checkpoints, "
                f"{printable_list(chosen)}; pass one of them."
            )
    raise CheckpointError(
        "it is a directory without a checkpoint, where the metadata of a distributed one, the index of a sharded one, "
        "or a single file of weights was expected; pass the checkpoint itself.",
        rule="F001",
    )


def entry_at_home(directory: Path) -> Path:
    """The same; it must lie in the directory, as all the others must.

    Raises:
        CheckpointError: `F007` where it is a link that leads out of it.
    """
    path = entry(directory)
    if not stays_home(path):
        raise CheckpointError(
            f"its '{printable(path.name)}' is a link that leads out of it; "
            "do not load it unless you know who made it, and pass the file itself if you do.",
            rule="F007",
        )
    return path


def is_missing(path: Path) -> bool:
    """Whether there is nothing of this name; what cannot be looked at is left to whoever opens it."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return False


def is_directory(path: Path) -> bool:
    """Whether it is a directory; what cannot be looked at is none, and opening it says why."""
    try:
        return path.is_dir()
    except OSError:
        return False

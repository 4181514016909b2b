"""Which file of a directory leads to the checkpoint in it.

In this order: the metadata of a distributed checkpoint, the index of a sharded one, and a single file of weights. Only
names are looked at here; what the files are is told by their bytes.
"""

from __future__ import annotations

from pathlib import Path

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

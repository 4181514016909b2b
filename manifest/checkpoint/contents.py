"""What every container has in common: how it is recognised, how it is read, and what reading it gives.

A container is one file of this package that makes one `Container`, and one entry in `opening.CONTAINERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap

from manifest.checkpoint.tensors import StoredTensor


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds; the attributes are those of `Checkpoint`."""

    tensors: dict[str, StoredTensor]
    state_path: tuple[str, ...] = ()
    prefix: str = ""
    extras: tuple[str, ...] = ()
    unsafe_globals: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Container:
    """One byte format of checkpoints.

    Attributes:
        name: What manifests call it.
        recognises: Whether a file's bytes are meant as this container, well-formed or not.
        read: Its contents; raises `CheckpointError` whose message begins after the file's name.
    """

    name: str
    recognises: Callable[[mmap], bool]
    read: Callable[[mmap], Contents]

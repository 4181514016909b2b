"""What every container has in common: how it is recognised, how it is read, and what reading it gives.

A container is one file of this package that makes one `Container`, and one entry in the table of `opening`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from manifest.checkpoint.containers.zip_records import Record
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.files import Files
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.tensors import StoredTensor


@dataclass(frozen=True)
class StateDictCandidate:
    """One set of weights in a checkpoint, which may hold several.

    Attributes:
        tensors: By name without wrapper prefix, in stored order.
        path: The keys that lead to them inside the object, for example `("state_dict",)`.
        prefix: The wrapper prefix that every stored name had, for example `module.`; empty when none.
        average: Whether they are an average of weights, such as an EMA, rather than the weights themselves.
        unlisted: Tensors among them whose values cannot be listed: name → what they are, in words.
        extras: What else the checkpoint holds; keys that are no strings by their `repr`.
    """

    tensors: dict[str, StoredTensor]
    path: tuple[str, ...] = ()
    prefix: str = ""
    average: bool = False
    unlisted: dict[str, str] = field(default_factory=dict)
    extras: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        candidates: The sets of weights in it, the one that is meant first.
        globals: `module.name` of every global that a real unpickler would import, as the file spells it.
        refused_opcodes: Opcodes of its pickle that `torch.load(weights_only=True)` does not accept.
        code: Names of records that are programs, none of which is ever run.
        records: The records of a zip archive, whose checksums have not all been compared.
        metadata: The `__metadata__` of safetensors.
        said: Short texts and switches beside the weights, by the keys that lead to them, as in `args.model`.
        container: What its files are, when an index led to them; empty when they are what was recognised.
    """

    candidates: tuple[StateDictCandidate, ...]
    globals: tuple[str, ...] = ()
    refused_opcodes: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    said: Mapping[str, str | bool] = field(default_factory=dict)
    container: str = ""


@dataclass(frozen=True)
class Container:
    """One byte format of checkpoints.

    Attributes:
        name: What manifests call it.
        recognises: Whether a file's bytes are meant as this container, well-formed or not.
        read: Its contents; raises `CheckpointError` whose message begins after the file's name.
    """

    name: str
    recognises: Callable[[Sniffed], bool]
    read: Callable[[Files], Contents]


def alone(read: Callable[[FileBytes], Contents]) -> Callable[[Files], Contents]:
    """The reading of a container that is always a single file."""
    return lambda files: read(files[0].read())

"""What is fuzzed: for each reader, how its files are changed, and what must hold of every file whatever is in it.

A file opens, and then everything that it lists can be read, or it is refused in one sentence under a known rule.
Anything else is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mutating
from bundling import unpack

from manifest.checkpoint import Checkpoint, CompositeTensor, StoredTensor, open_checkpoint
from manifest.checkpoint.pickles.pickle_vm import interpret
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.checkpoint.state_dicts import find_states
from manifest.checkpoint.storage_layout import check_tensors
from manifest.errors import CheckpointError, InputError, ManifestError
from manifest.schema.rules import RULES

_MOST_DIGESTED = 64 << 20
_MOST_MESSAGE = 3_000


class Broken(AssertionError):
    """What must hold of every file does not."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        mutate: A change that its files can take.
        run: Reads bytes, in a folder of its own that it leaves empty; raises for a finding only.
    """

    mutate: mutating.Mutate
    run: Callable[[bytes, Path], None]


def examine(path: Path) -> None:
    """Open a checkpoint and read all of it.

    Raises:
        Broken: It broke a promise.
        Exception: Whatever else came up.
    """
    try:
        with open_checkpoint(path) as checkpoint:
            for candidate in checkpoint.candidates:
                _check_texts((*candidate.path, candidate.prefix, *candidate.extras, *candidate.unlisted))
                _check_texts(candidate.unlisted.values())
                _digest(checkpoint.select(candidate.path))
            found = checkpoint.contents
            _check_texts((*found.globals, *found.refused_opcodes, *found.code))
            _check_texts((*found.metadata, *found.metadata.values()))
    except (CheckpointError, InputError) as error:
        _check_refusal(error)


def _digest(checkpoint: Checkpoint) -> None:
    left = _MOST_DIGESTED
    for name, tensor in checkpoint.tensors.items():
        _check_texts((name, tensor.name))
        for part in tensor.parts.values() if isinstance(tensor, CompositeTensor) else (tensor,):
            _check_place(checkpoint, part)
        left -= tensor.nbytes
        if left < 0:
            break
        checkpoint.digest(tensor)
        if not isinstance(tensor, CompositeTensor) and checkpoint.values(tensor).nbytes != tensor.nbytes:
            raise Broken(f"{tensor} has other than {tensor.nbytes} bytes")
    checkpoint.aliases()


def _check_place(checkpoint: Checkpoint, tensor: StoredTensor) -> None:
    if not all(0 <= size < 2**63 for size in tensor.shape):
        raise Broken(f"{tensor.shape} is no shape")
    storage, file = getattr(tensor, "storage", (0, 0)), getattr(tensor, "file", 0)
    if not 0 <= storage[0] <= storage[1] <= len(checkpoint.files[file].mapping):
        raise Broken(f"{storage} is no range of file {file}")


def _check_texts(texts: Iterable[str]) -> None:
    """All of them can be put down in a manifest."""
    for shown in texts:
        shown.encode()


def _check_refusal(error: ManifestError) -> None:
    message = str(error)
    if isinstance(error, CheckpointError) and error.rule not in RULES:
        raise Broken(f"{error.rule} is no rule")
    if not message.isprintable() or len(message) > _MOST_MESSAGE or (not message.endswith(".") and "/" not in message):
        raise Broken(f"no sentence: {message[:500]!r}")


def _one_file(name: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        path = folder / name
        path.write_bytes(data)
        examine(path)

    return run


def _several_files(first: str) -> Callable[[bytes, Path], None]:
    def run(data: bytes, folder: Path) -> None:
        files = unpack(data, first)
        try:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            examine(folder / next(iter(files)))
        finally:
            for path in folder.iterdir():
                path.unlink()

    return run


def _interpret(data: bytes, folder: Path) -> None:  # noqa: ARG001
    for objects in (TorchObjects(), TorchObjects(legacy=True), TorchObjects(packaged=True)):
        try:
            interpreted = interpret(data, objects.constructors, objects.persistent)
            _check_texts((*interpreted.globals, *interpreted.refused_opcodes))
            check_tensors(objects.tensors, len(data))
            for state in find_states(interpreted.root):
                _check_texts((*state.tensors, *state.path, *state.extras, *state.unlisted))
        except CheckpointError as error:
            _check_refusal(error)


TARGETS: dict[str, Target] = {
    "zip": Target(mutating.archive, _one_file("fuzzed.pt")),
    "legacy": Target(mutating.legacy, _one_file("fuzzed.pt")),
    "pickle": Target(mutating.pickled, _interpret),
    "safetensors": Target(mutating.safetensors, _one_file("fuzzed.safetensors")),
    "npz": Target(mutating.archive, _one_file("fuzzed.npz")),
    "dcp": Target(mutating.distributed, _several_files(".metadata")),
    "index": Target(mutating.indexed, _several_files("model.safetensors.index.json")),
}

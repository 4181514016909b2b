"""Checkpoints of `torch.distributed.checkpoint`, written and described by all processes of a group together.

Each process hashes the files that it wrote and digests its share of the tensors, dealt out by their bytes and read back
from the files; the first process merges what they found into one manifest. A tensor that lies in pieces is digested as
a whole by one process: the digest is of its values in row-major order, in which the pieces of several processes can be
interleaved, and BLAKE3 as its library gives it does not merge the digests of parts. So the weights digest is that of
the consolidated state dict, and reading, which is what takes long, is shared all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Unpack

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.checkpoint.storage import WriteResult

from manifest.capture.live_model import LiveModel, live_model
from manifest.capture.options import Key, RecordKeywords, record_options
from manifest.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from manifest.digests import file_digests
from manifest.distributed.process_group import ProcessGroup
from manifest.distributed.sharding import reshard
from manifest.errors import InputError
from manifest.families.wrappers import unwrap
from manifest.schema.document import Manifest
from manifest.storage.places import storage_errors
from manifest.storage.sidecars import require_checkpoint
from manifest.storage.suppress_recording import suppress_recording
from manifest.storage.transaction import clear_sidecars, staging_directory
from manifest.workflows.signing import publish_signed, publish_signed_directory

_WEIGHTS = "model"
"""The key under which the weights are in what is saved."""

_WRITTEN_BY = re.compile(r"__(\d+)_")
"""How the names of a process's files begin."""


@suppress_recording()
def save_distributed(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    key: Key = None,
    extras: Mapping[str, Any] | None = None,
    golden: bool = True,
    model_name: str | None = None,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    process_group: dist.ProcessGroup | None = None,
    **record: Unpack[RecordKeywords],
) -> Manifest:
    """Save a model by `torch.distributed.checkpoint` with its manifest, and its signature when there is a key.

    All processes of the group must call this, with a directory on a file system that they share. The files are written
    into a directory of their own and moved once all of them are whole: a directory that was not there appears with its
    manifest; in one that was, a kill leaves the old checkpoint, or one without a manifest, or the new one. What a
    killed save has written stays in a hidden directory whose name ends in `.tmp`; the next save, or `manifest repair`,
    removes it.

    The other processes wait while the first captures the architecture and records golden outputs, for which it holds
    the whole model on its CPU; give `golden=False` where it cannot, and a group whose timeout is long enough.

    Args:
        model: The model: under `fully_shard` or tensor parallelism, or whole; a wrapper of it will do.
        directory: Where the checkpoint goes; other files in it stay.
        key: Private key to sign with, which only the first process reads: a file, `file:…` or `env:VARIABLE`.
        passphrase: Of an encrypted key.
        extras: What else to save beside the weights, which are under `model`: `{"optimizer": …, "step": 7}`, whatever
            `torch.distributed.checkpoint.save` takes.
        dataset: A note for the record on what it was trained on; see `manifest.save`.
        golden: Whether to record golden outputs, of the model as it is rebuilt from the files.
        floor: How much time the numerics floor may take: `quick`, `full` or `none`.
        probes: What else the model is asked; see `manifest.save`.
        precisions: In what else its answers are recorded, besides float32.
        partial: Roles of components that are untrained by design.
        model_name: Name in the model library's registry, for a model whose making was not seen.
        family: Name of the model library, where the model does not show it.
        arguments: What `model_name` was called with.
        process_group: Who saves together; all processes when None.

    Returns:
        The manifest that was written, on every process.

    Raises:
        GroupError: One of several processes failed; all of them raise it, and the message says which and why.
        IncompleteModelError: By a process alone: part of the model was never trained.
        ArchitectureError: By a process alone: the model cannot be rebuilt exactly.
        StorageError: By a process alone: the place cannot be written.

    Example:
        >>> model = manifest.load("ckpt.pt")
        >>> written = manifest.save_distributed(model, "step-4", extras={"step": 4}, golden=False)
        >>> written.checkpoint.container, written.provenance.step
        ('dcp', 4)
        >>> manifest.verify("step-4", fast=True).passed
        True
    """
    together = ProcessGroup(process_group)
    target = Path(directory)
    reshard(model)
    live = together.for_first(
        lambda: live_model(
            model,
            record_options(key, golden=golden, **record),
            extras,
            model_name=model_name,
            family=family,
            arguments=arguments,
        )
    )
    with contextlib.ExitStack() as staging:
        staged = together.on_first(lambda: _stage(live, target, staging))
        _write(together, unwrap(model), extras or {}, staged, target)
        shares = _digest(together, staged, _WEIGHTS)
        return together.on_first(lambda: _publish(live, shares, staged, target))


@suppress_recording()
def describe_distributed(
    directory: str | os.PathLike[str],
    model: nn.Module,
    *,
    key: Key = None,
    extras: Mapping[str, Any] | None = None,
    golden: bool = True,
    model_name: str | None = None,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    state: str | None = None,
    process_group: dist.ProcessGroup | None = None,
    **record: Unpack[RecordKeywords],
) -> Manifest:
    """Write a manifest into the directory that a script's own `torch.distributed.checkpoint.save` has just written.

    All processes of the group must call this. A manifest that is there already is removed first, for it describes what
    was there before; a script that overwrites checkpoints should remove it before it does, by
    `manifest.remove_manifest`. The other arguments are those of `save_distributed`.

    Args:
        directory: The checkpoint, on a file system that the processes share.
        model: The model whose weights it holds.
        extras: What was saved beside them, for the epoch and the step in it.
        state: Which set of weights in it, by the keys that lead to it joined with dots; the one that is meant by
            default.
        process_group: Who saved it together; all processes when None.

    Returns:
        The manifest that was written, on every process.

    Raises:
        GroupError: One of several processes failed; all of them raise it, and the message says which and why.

    Example:
        >>> import torch.distributed.checkpoint as dcp
        >>> model = manifest.load("ckpt.pt")
        >>> _ = dcp.save({"model": model.state_dict()}, checkpoint_id="step-5")
        >>> written = manifest.describe_distributed("step-5", model, golden=False)
        >>> written.checkpoint.state.path
        ['model']
    """
    return describe_together(
        ProcessGroup(process_group),
        Path(directory),
        model,
        lambda: live_model(
            model,
            record_options(key, golden=golden, **record),
            extras,
            model_name=model_name,
            family=family,
            arguments=arguments,
        ),
        state,
    )


def describe_together(
    together: ProcessGroup, target: Path, model: nn.Module, live: Callable[[], LiveModel], state: str | None
) -> Manifest:
    """Describe a directory; only the first process of the group finds out what there is to say of the live model."""
    together.on_first(lambda: clear_sidecars(require_checkpoint(target)))
    reshard(model)
    known = together.for_first(live)
    shares = _digest(together, target, state)
    return together.on_first(lambda: _publish(known, shares, target, target, state))


@dataclass(frozen=True)
class _Share:
    """What one process found out of a checkpoint.

    Attributes:
        files: BLAKE3 and SHA-256 by the name of the file.
        tensors: Tensor digests by name.
    """

    files: Mapping[str, tuple[str, str]]
    tensors: Mapping[str, str]


class _Writer(FileSystemWriter):
    """torch's writer of files, but for the name of the directory on this machine, which it would keep with them.

    Args:
        staged: Where it writes.
        target: What errors of writing speak of, before torch makes texts of them for the other processes.
    """

    def __init__(self, staged: Path, target: Path) -> None:
        super().__init__(staged)
        self._target = target

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> torch.futures.Future[list[WriteResult]]:
        with storage_errors(self._target):
            return super().write_data(plan, planner)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        with storage_errors(self._target):
            super().finish(metadata, results)

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(save_id=self.save_id)


def _stage(live: LiveModel | None, target: Path, staging: contextlib.ExitStack) -> Path:
    """Where the files are written first, made when it is known that they can be described."""
    assert live is not None
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, expected a directory for a distributed checkpoint; name another.")
    _ = live.captured
    with storage_errors(target):
        return staging.enter_context(staging_directory(target.resolve()))


def _write(together: ProcessGroup, module: nn.Module, extras: Mapping[str, Any], staged: Path, target: Path) -> None:
    state = together.everywhere(lambda: _state(together, module, extras, staged))
    try:
        together.exchanging(
            lambda: save(
                state,
                storage_writer=_Writer(staged, target),
                process_group=together.group,
                no_dist=together.size == 1,
            )
        )
    except CheckpointException as error:  # by then torch has told it to all processes
        rank, (cause, _) = min(error.failures.items(), key=lambda failure: failure[0])
        together.fail(rank, cause)


def _state(together: ProcessGroup, module: nn.Module, extras: Mapping[str, Any], staged: Path) -> dict[str, Any]:
    """What is saved; nothing in it has to be asked any more."""
    if not staged.is_dir():
        raise InputError(
            f"Rank {together.rank} does not see {staged.parent.parent} as rank 0 does, which made "
            f"{staged.parent.name} in it; save to a file system that all processes share."
        )
    if _WEIGHTS in extras:
        raise InputError(f"Extra {_WEIGHTS!r} would hide the weights; give it another name.")
    others = {name: value.state_dict() if isinstance(value, Stateful) else value for name, value in extras.items()}
    return {_WEIGHTS: get_model_state_dict(module), **others}


def _digest(together: ProcessGroup, place: Path, state: str | None) -> list[_Share]:
    """What the processes find out of a checkpoint, each its share; by rank on the first, nothing on the others."""
    return together.collect(together.everywhere(lambda: _share(place, state, together.rank, together.size)))


def _share(place: Path, state: str | None, rank: int, size: int) -> _Share:
    with _opened(place, state) as stored:
        return _Share(
            files={file.name: file_digests(file.path) for file in stored.files if _writer_of(file.name) % size == rank},
            tensors={name: stored.digest(stored.tensors[name]) for name in _dealt(stored.tensors, size)[rank]},
        )


def _writer_of(name: str) -> int:
    """The rank of the process that wrote a file; the first writes the metadata."""
    match = _WRITTEN_BY.match(name)
    return int(match[1]) if match else 0


def _dealt(tensors: Mapping[str, StoredTensor], size: int) -> list[list[str]]:
    """Names of tensors for each process, the largest first to whoever has the fewest bytes; the same on all."""
    shares: list[list[str]] = [[] for _ in range(size)]
    loads = [(0, rank) for rank in range(size)]
    for name in sorted(tensors, key=lambda name: (-tensors[name].nbytes, name)):
        load, rank = heappop(loads)
        shares[rank].append(name)
        heappush(loads, (load + tensors[name].nbytes, rank))
    return shares


def _publish(
    live: LiveModel | None, shares: Sequence[_Share], place: Path, target: Path, state: str | None = _WEIGHTS
) -> Manifest:
    """Merge what the processes found, describe the checkpoint, and put everything in place."""
    assert live is not None
    # The processes digest their shares; sketches would take the first one another pass over all of them.
    live = replace(live, options=replace(live.options, kinship=False))
    with _opened(place, state) as opened:
        stored = opened.with_digests({name: digest for share in shares for name, digest in share.tensors.items()})
        found = {name: digests for share in shares for name, digests in share.files.items()}
        digests: Future[list[tuple[str, str]]] = Future()
        digests.set_result([found[file.name] for file in stored.files])
        manifest = live.describe(stored, target.name, digests)
    with storage_errors(target):
        if place == target:
            publish_signed(None, target, manifest, live.options.signer)
        else:
            publish_signed_directory(place, target.resolve(), manifest, live.options.signer)
    return manifest


def _opened(place: Path, state: str | None) -> Checkpoint:
    stored = open_checkpoint(place)
    return stored if state is None else stored.select(state)

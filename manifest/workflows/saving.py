"""Saving: the checkpoint, its manifest and its signature, all or nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors.torch import save as safetensors_bytes
from safetensors.torch import save_file
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from manifest import progress as steps
from manifest.capture.description import require_recordable
from manifest.capture.live_model import LiveModel, live_model
from manifest.capture.options import Key, RecordKeywords, record_options
from manifest.checkpoint import open_checkpoint
from manifest.checkpoint.tensors import SAFETENSORS_CODES
from manifest.digests import file_digests
from manifest.distributed.process_group import ProcessGroup
from manifest.distributed.sharding import WHOLE_OF_ZERO, is_copy, is_partitioned, is_sharded, reshard, whole_state
from manifest.errors import ArchitectureError, InputError, one_line
from manifest.escaping import printable, writable
from manifest.families.wrappers import unwrap
from manifest.neutral_process import neutral_process
from manifest.progress import Follower, followed
from manifest.schema.document import Manifest
from manifest.storage.files import synchronise
from manifest.storage.growing_file import digests_of_growing
from manifest.storage.places import place_to_save, storage_errors, warn_of_special
from manifest.storage.suppress_recording import suppress_recording
from manifest.storage.transaction import clear_sidecars, staging
from manifest.workflows.signing import publish_signed

_BUFFER = 1 << 20  # bytes


@followed
def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: Key = None,
    extras: Mapping[str, Any] | None = None,
    golden: bool = True,
    model_name: str | None = None,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    progress: Follower = None,
    **record: Unpack[RecordKeywords],
) -> Manifest | None:
    """Save a model with its manifest, and its signature when there is a key.

    A kill at any moment leaves the old checkpoint verifiable or the new one. The model is as before afterwards: its
    mode, its device, its gradients, and every random generator.

    Among several processes, a `DistributedDataParallel` model is saved by the first process of its group; on the others
    nothing is done and nobody waited for, so that the call may stand behind `if rank == 0:` or not. The module inside
    it, or any other that is whole on a process, is saved wherever this is called. A model that `fully_shard` has spread
    is put together and saved by the first process, and all of them must call this; see `manifest.save_distributed` for
    one that is too large for that.

    Args:
        model: The model, or a `DistributedDataParallel` or compiled wrapper of it.
        path: Where: by safetensors when it ends in `.safetensors`, else by `torch.save`. A link is followed; into a
            pipe or a device it is written without a manifest.
        key: Private key to sign with: a file, `file:…` or `env:VARIABLE`.
        passphrase: Of an encrypted key.
        extras: What else to keep in the file beside `state_dict`: `{"epoch": 3, "optimizer": …}`. In a safetensors
            file, text only. An epoch and a step among them go on record, with the command line: paths as file names,
            and what may be a secret as `***`.
        dataset: A note for the record on what it was trained on, scrubbed in the same way.
        golden: Whether to record golden outputs.
        floor: How much time the numerics floor may take: `quick`, `full` or `none`.
        probes: What else the model is asked: `manifest.Probe(…)`, or directories of images with a `prompts.txt`. Their
            answers are recorded, and they are not.
        example_inputs: What a network of your own takes, by the names of the arguments of its `forward`: golden outputs
            are taken of numbers of these types and shapes, which anybody can draw again.
        precisions: In what else its answers are recorded, besides float32: `["bf16"]`.
        partial: Roles of components that are untrained by design, for example `["text_tower"]`.
        kinship: Whether to record sketches of the weights, by which checkpoints are compared without their files; they
            tell how far weights are apart. See `manifest.relate`.
        model_name: Name in the model library's registry, for a model whose making was not seen; of a factory of your
            own, `package.module:name`.
        family: Name of the model library, where the model does not show it: `callable` for a factory of your own, and
            `opaque` to record what the model shows and not how to rebuild it, as where nobody can.
        arguments: What `model_name` was called with.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        The manifest that was written; None on a process that left the saving to the first, and of a device.

    Raises:
        IncompleteModelError: Part of the model was never trained.
        ArchitectureError: The model cannot be rebuilt exactly.
        StorageError: The place cannot be written; nothing was changed.
        GroupError: Of a sharded model: one of the processes could not do its part.

    Example:
        >>> model = manifest.load("ckpt.pt")
        >>> written = manifest.save(model, "next.pt", key="release.key", extras={"epoch": 4})
        >>> written.weights.parameters
        3484545
        >>> manifest.verify("next.pt", key="release.pub", fast=True).passed
        True
    """
    del progress  # `followed` takes it
    if is_copy(model):
        return None
    checkpoint, module = Path(path), unwrap(model)
    if is_partitioned(module):
        raise ArchitectureError(
            f"DeepSpeed's ZeRO-3 has partitioned the model, and {path} would be empty; {WHOLE_OF_ZERO}."
        )
    sharded = is_sharded(module)
    together = ProcessGroup() if sharded else ProcessGroup.alone()
    if sharded:
        reshard(module)
    together.on_first(lambda: _require_name_of_file(checkpoint))
    live = together.for_first(
        lambda: live_model(
            module,
            record_options(key, golden=golden, **record),
            extras,
            model_name=model_name,
            family=family,
            arguments=arguments,
        )
    )
    with neutral_process():
        state = together.exchanging(lambda: whole_state(module)) if sharded else module.state_dict()
    return together.on_first(lambda: _save(live, state, checkpoint, extras or {}))


def _require_name_of_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory, expected a file name; add one.")
    require_recordable(path.name)


def _save(
    live: LiveModel | None, state: Mapping[str, torch.Tensor], named: Path, extras: Mapping[str, Any]
) -> Manifest | None:
    assert live is not None
    path = place_to_save(named)
    _require_values(state, safetensors=named.suffix == ".safetensors")
    if path is None:
        with storage_errors(named):
            _write_into(named, state, extras)
        warn_of_special(named)
        return None
    steps.begin("writing", sum(value.nbytes for value in state.values()))
    with staging(path) as staged:
        with ThreadPoolExecutor() as background:
            if path.suffix == ".safetensors":
                with neutral_process():
                    tensors = _own_storages(state)
                written = background.submit(_write_safetensors, tensors, staged, _metadata(extras))
                digests = background.submit(lambda: [written.result() or file_digests(staged)])
            else:
                written = background.submit(_write_by_torch, _content(state, extras), staged)
                digests = background.submit(lambda: [digests_of_growing(staged, written)])
            live.captured  # noqa: B018 - while it is written
            written.result()
            with open_checkpoint(staged) as stored:
                # Waiting for the disk takes as long as the write did; it goes on while the model is looked at.
                durable = background.submit(synchronise, staged)
                manifest = live.describe(stored, path.name, digests)
                durable.result()
        publish_signed(staged, path, manifest, live.options.signer)
        if named.is_symlink():
            clear_sidecars(named)  # beside the link itself: they would be read before those of what it leads to
    return manifest


def _write_into(special: Path, state: Mapping[str, torch.Tensor], extras: Mapping[str, Any]) -> None:
    """Write a checkpoint into a pipe or a device."""
    if special.suffix == ".safetensors":
        with special.open("wb") as file:
            file.write(safetensors_bytes(_own_storages(state), metadata=_metadata(extras)))
    else:
        torch.save(_content(state, extras), special)


@neutral_process()
def _require_values(state: Mapping[str, Any], *, safetensors: bool) -> None:
    """Refuse what a manifest or the container cannot hold, before anything is written.

    Raises:
        InputError: Of the first such entry of the state dict.
    """
    for name, value in state.items():
        if problem := _name_problem(name, safetensors) or _value_problem(value, safetensors):
            raise InputError(f"The entry '{printable(name)}' of the state dict {problem}.")


def _name_problem(name: str, safetensors: bool) -> str | None:
    if writable(name) != name:
        return "has a name that is not Unicode, and a manifest is; rename it"
    if safetensors and name == "__metadata__":
        return "is called like the metadata of safetensors; rename it, or save as .pt instead"
    return None


def _value_problem(value: Any, safetensors: bool) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"is a {type(value).__name__}, expected a tensor; keep it as a buffer, or among the `extras`"
    if isinstance(value, UninitializedParameter | UninitializedBuffer):
        return "is not initialised, for a lazy module has seen no input yet; ask the model once before saving it"
    if value.is_meta:
        return "is a meta tensor, without values; load the weights, or `model.to_empty(…)` and initialise them, first"
    if value.is_nested:
        return "is a nested tensor, expected a plain one; save it padded, with its lengths"
    if not safetensors:
        return None
    if value.layout is not torch.strided:
        return f"is stored as {str(value.layout).removeprefix('torch.')}, which safetensors cannot hold; make it dense"
    dtype = str(value.dtype).removeprefix("torch.")
    if dtype not in SAFETENSORS_CODES.values():
        return f"is of {dtype}, which safetensors cannot hold; convert it, or save as .pt instead"
    return None


def _metadata(extras: Mapping[str, Any]) -> dict[str, str]:
    if wrong := [name for name, value in extras.items() if not isinstance(value, str)]:
        raise InputError(
            f"Extra {wrong[0]!r} is a {type(extras[wrong[0]]).__name__}, and a safetensors file holds "
            "text beside its tensors; save as .pt instead."
        )
    return {"format": "pt", **extras}


def _write_safetensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    with suppress_recording():
        save_file(dict(tensors), path, metadata=dict(metadata))


def _write_by_torch(content: Mapping[str, Any], path: Path) -> None:
    """Write a file by `torch.save`.

    Raises:
        InputError: Something in it cannot be pickled.
    """
    try:
        with suppress_recording(), path.open("xb", buffering=_BUFFER) as file:
            torch.save(content, file)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise InputError(
            f"torch.save cannot write this model and its extras ({printable(one_line(error), 200)}); "
            "save plain tensors, numbers and texts instead."
        ) from error


def _content(state: Mapping[str, torch.Tensor], extras: Mapping[str, Any]) -> Mapping[str, Any]:
    if "state_dict" in extras:
        raise InputError("Extra 'state_dict' would hide the weights; give it another name.")
    return {"state_dict": state, **extras} if extras else state


def _own_storages(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in state.items():
        values = tensor.detach().cpu().contiguous()
        owned[name] = values.clone() if values.data_ptr() in seen else values
        seen.add(values.data_ptr())
    return owned

"""Saving: the checkpoint, its manifest and its signature, all or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from manifest.checkpoint import open_checkpoint
from manifest.digests import files_digests
from manifest.document import Manifest
from manifest.errors import InputError
from manifest.families import Creation, creation_of, family_of, unwrap
from manifest.families import family as family_named
from manifest.golden.floor import Thoroughness
from manifest.golden.probe import Probe
from manifest.grants import granted
from manifest.sidecars import staging, synchronise
from manifest.signing import PrivateKey, private_key
from manifest.workflows.describing import Description, manifest_of
from manifest.workflows.probes import asking_of
from manifest.workflows.provenance import facts_of, provenance_of
from manifest.workflows.signing import publish_signed


def save(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | PrivateKey | None = None,
    passphrase: bytes | None = None,
    extras: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    golden: bool = True,
    floor: Thoroughness | str = Thoroughness.QUICK,
    probes: Sequence[Probe | str | os.PathLike[str]] = (),
    precisions: Sequence[str] = (),
    partial: Sequence[str] = (),
    model_name: str | None = None,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Manifest:
    """Save a model with its manifest, and its signature when there is a key.

    A kill at any moment leaves the old checkpoint verifiable or the new one. The model is as before afterwards: its
    mode, its device, its gradients, and every random generator.

    Args:
        model: The model, or a `DistributedDataParallel` or compiled wrapper of it.
        path: Where: by safetensors when it ends in `.safetensors`, else by `torch.save`.
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
        precisions: In what else its answers are recorded, besides float32: `["bf16"]`.
        partial: Roles of components that are untrained by design, for example `["text_tower"]`.
        model_name: Name in the model library's registry, for a model whose making was not seen; of a factory of your
            own, `package.module:name`.
        family: Name of the model library, where the model does not show it: `callable` for a factory of your own.
        arguments: What `model_name` was called with.

    Returns:
        The manifest that was written.

    Raises:
        IncompleteModelError: Part of the model was never trained.
        ArchitectureError: The model cannot be rebuilt exactly.
        StorageError: The place cannot be written; nothing was changed.
    """
    checkpoint = Path(path)
    if checkpoint.is_dir():
        raise InputError(f"{checkpoint} is a directory, expected a file name; add one.")
    asking = asking_of(floor, probes, precisions)
    facts = facts_of(extras or {}, dataset=dataset)
    signer = None if key is None else private_key(key, passphrase)
    module = unwrap(model)
    creation = creation_of(module)
    if creation is None and model_name is not None:
        creation = Creation(model_name, dict(arguments or {}), family=family)
    adapter = family_of(module) if creation is None or creation.family is None else family_named(creation.family)
    # The model is here already, made by that code.
    with staging(checkpoint) as staged, granted(creation.runs if creation else ()):
        _write(module, staged, checkpoint.suffix == ".safetensors", extras or {})
        with open_checkpoint(staged) as stored, ThreadPoolExecutor() as background:
            # Hashing and waiting for the disk take as long as the write did; they run while the model is looked at.
            durable = background.submit(synchronise, staged)
            digests = background.submit(files_digests, [staged])
            description = Description(
                stored,
                adapter,
                adapter.capture(module, creation),
                live=module,
                asking=asking if golden else None,
                partial=partial,
            )
            manifest = manifest_of(
                [description],
                file_name=checkpoint.name,
                digests=digests,
                provenance=provenance_of(adapter, creation, facts),
                signer=signer.public.hint if signer else None,
            )
            durable.result()
        publish_signed(staged, checkpoint, manifest, signer)
    return manifest


def _write(module: nn.Module, path: Path, safetensors: bool, extras: Mapping[str, Any]) -> None:
    state = module.state_dict()
    if safetensors:
        if wrong := [name for name, value in extras.items() if not isinstance(value, str)]:
            raise InputError(
                f"Extra {wrong[0]!r} is a {type(extras[wrong[0]]).__name__}, and a safetensors file holds "
                "text beside its tensors; save as .pt instead."
            )
        save_file(_own_storages(state), path, metadata={"format": "pt", **extras})
        return
    if "state_dict" in extras:
        raise InputError("Extra 'state_dict' would hide the weights; give it another name.")
    with path.open("xb") as file:
        torch.save({"state_dict": state, **extras} if extras else state, file)


def _own_storages(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors wants them: on the CPU, contiguous, and none sharing memory with another."""
    seen: set[int] = set()
    owned = {}
    for name, tensor in state.items():
        values = tensor.detach().cpu().contiguous()
        owned[name] = values.clone() if values.data_ptr() in seen else values
        seen.add(values.data_ptr())
    return owned

"""Creating: a manifest for a checkpoint that exists already, without changing a byte of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

from manifest import progress
from manifest.capture.description import Description, manifest_of, require_recordable
from manifest.capture.options import Key, RecordKeywords, record_options
from manifest.capture.provenance import facts_of, provenance_of
from manifest.checkpoint import Checkpoint, open_checkpoint, require_undamaged
from manifest.digests import files_digests
from manifest.errors import ArchitectureError
from manifest.escaping import printable
from manifest.families import family as family_named
from manifest.families.protocol import Captured, Creation
from manifest.grants import granted
from manifest.schema.document import Manifest
from manifest.storage.sidecars import require_checkpoint
from manifest.storage.transaction import sidecars_only
from manifest.weights.assign import shapes_of
from manifest.workflows.signing import publish_signed


def describe(
    path: str | os.PathLike[str],
    model_name: str,
    *,
    family: str = "open_clip",
    arguments: Mapping[str, Any] | None = None,
    model_config: str | os.PathLike[str] | None = None,
    pretrained: str | None = None,
    key: Key = None,
    golden: bool = True,
    state: str | None = None,
    **record: Unpack[RecordKeywords],
) -> Manifest:
    """Write a manifest beside an existing checkpoint.

    Args:
        path: The checkpoint.
        model_name: Name of its architecture in the family's registry.
        family: Name of the model library.
        arguments: As given to the family's builder, for example `{"force_quick_gelu": True}`.
        model_config: JSON file of a model config of your own, whose stem is the model's name.
        pretrained: Tag that the weights are known by; its preprocessing is taken.
        key: Private key to sign with.
        golden: Whether to record golden outputs.
        state: Which set of weights, by the keys that lead to it joined with dots; the one that is meant by default.
        **record: `passphrase`, `floor`, `probes`, `example_inputs`, `precisions`, `partial` and `dataset`, as of
            `manifest.save`.

    Returns:
        The manifest that was written.

    Raises:
        UnknownModelError: The family has no such model.
        ArchitectureError: The architecture does not fit the weights.
        IncompleteModelError: A component is missing or untrained and not declared in `partial`.

    Example:
        >>> written = manifest.describe(
        ...     "weights.safetensors", "digits-clip", model_config="digits-clip.json", golden=False
        ... )
        >>> written.architecture.family, written.architecture.name
        ('open_clip', 'digits-clip')
        >>> manifest.verify("weights.safetensors", fast=True).passed
        True
    """
    checkpoint = require_checkpoint(path)
    require_recordable(checkpoint.name)
    options = record_options(key, golden=golden, **record)
    adapter = family_named(family)
    creation = Creation(model_name, dict(arguments or {}), pretrained, family=family)
    if model_config is not None:
        adapter.register(Path(model_config))
    # Who names a factory here asks for it to be run.
    with granted(creation.runs), open_checkpoint(checkpoint) as stored, ThreadPoolExecutor() as background:
        require_undamaged(stored)
        progress.begin("architecture")
        captured = adapter.describe(creation)
        meant = _part_that_fits(stored, captured) if state is None else stored.select(state)
        description = Description(meant, adapter, captured, options=options)
        manifest = manifest_of(
            [description],
            file_name=checkpoint.name,
            digests=background.submit(files_digests, [file.path for file in stored.files]),
            provenance=provenance_of(adapter, creation, facts_of({}, dataset=options.dataset, words=())),
            signer=options.hint,
        )
    with sidecars_only(checkpoint):
        publish_signed(None, checkpoint, manifest, options.signer)
    return manifest


create = describe
"""The older name."""


def _part_that_fits(stored: Checkpoint, captured: Captured) -> Checkpoint:
    """Those weights of a state dict that are an architecture's, where other models' are beside them.

    All of them where no part by itself is the architecture.

    Raises:
        ArchitectureError: Several are, and nobody said which.
    """
    expected = shapes_of(captured.module)

    def fits(part: Checkpoint) -> bool:
        return part.shapes == expected

    if fits(stored) or not any(name.endswith(f".{first}") for first in list(expected)[:1] for name in stored.tensors):
        return stored
    fitting = [part for part in stored.parts() if fits(part)]
    if len(fitting) > 1:
        states = [printable(".".join((*part.state_path, part.prefix[len(stored.prefix) : -1]))) for part in fitting]
        raise ArchitectureError(
            f"{printable(stored.path.name)} holds the weights of {len(fitting)} such models ({', '.join(states)}); "
            f"choose one with state={states[0]!r} (`--state {states[0]}`)."
        )
    return fitting[0] if fitting else stored

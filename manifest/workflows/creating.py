"""Creating: a manifest for a checkpoint that exists already, without changing a byte of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from manifest.capture.description import Description, golden_options, manifest_of, require_recordable
from manifest.capture.provenance import provenance_of
from manifest.checkpoint import open_checkpoint, require_undamaged
from manifest.digests import files_digests
from manifest.families import family as family_named
from manifest.families.protocol import Creation
from manifest.golden.floor import Thoroughness
from manifest.grants import granted
from manifest.probes.inputs import Probe
from manifest.schema.document import Manifest
from manifest.signing import PrivateKey, private_key
from manifest.storage.sidecars import require_checkpoint
from manifest.storage.transaction import sidecars_only
from manifest.workflows.signing import publish_signed


def create(
    path: str | os.PathLike[str],
    model_name: str,
    *,
    family: str = "open_clip",
    arguments: Mapping[str, Any] | None = None,
    model_config: str | os.PathLike[str] | None = None,
    pretrained: str | None = None,
    key: str | os.PathLike[str] | PrivateKey | None = None,
    passphrase: bytes | None = None,
    golden: bool = True,
    floor: Thoroughness | str = Thoroughness.QUICK,
    probes: Sequence[Probe | str | os.PathLike[str]] = (),
    precisions: Sequence[str] = (),
    partial: Sequence[str] = (),
    state: str | None = None,
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
        passphrase: Of an encrypted key.
        golden: Whether to record golden outputs.
        floor: How much time the numerics floor may take: `quick`, `full` or `none`.
        probes: What else the model is asked; see `manifest.save`.
        precisions: In what else its answers are recorded, besides float32.
        partial: Roles of components that are absent or untrained by design.
        state: Which set of weights, by the keys that lead to it joined with dots; the one that is meant by default.

    Returns:
        The manifest that was written.

    Raises:
        UnknownModelError: The family has no such model.
        ArchitectureError: The architecture does not fit the weights.
        IncompleteModelError: A component is missing or untrained and not declared in `partial`.

    Example:
        >>> written = manifest.create(
        ...     "weights.safetensors", "digits-clip", model_config="digits-clip.json", golden=False
        ... )
        >>> written.architecture.family, written.architecture.name
        ('open_clip', 'digits-clip')
        >>> manifest.verify("weights.safetensors", fast=True).passed
        True
    """
    checkpoint = require_checkpoint(path)
    require_recordable(checkpoint.name)
    signer = None if key is None else private_key(key, passphrase)
    adapter = family_named(family)
    creation = Creation(model_name, dict(arguments or {}), pretrained, family=family)
    if model_config is not None:
        adapter.register(Path(model_config))
    # Who names a factory here asks for it to be run.
    with granted(creation.runs), open_checkpoint(checkpoint) as stored, ThreadPoolExecutor() as background:
        require_undamaged(stored)
        description = Description(
            stored if state is None else stored.select(state),
            adapter,
            adapter.describe(creation),
            options=golden_options(floor, probes, precisions) if golden else None,
            partial=partial,
        )
        manifest = manifest_of(
            [description],
            file_name=checkpoint.name,
            digests=background.submit(files_digests, [file.path for file in stored.files]),
            provenance=provenance_of(adapter, creation),
            signer=signer.public.hint if signer else None,
        )
    with sidecars_only(checkpoint):
        publish_signed(None, checkpoint, manifest, signer)
    return manifest

"""`torch.save`, followed by a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from manifest.capture.options import Key, record_options
from manifest.errors import NoManifestWarning
from manifest.golden.thoroughness import Thoroughness
from manifest.schema.document import Manifest
from manifest.storage.places import place_to_save, warn_of_special
from manifest.storage.suppress_recording import suppress_recording
from manifest.training.recorder import CheckpointRecorder
from manifest.warning import warn


@suppress_recording()
def torch_save(
    obj: Any,
    f: Any,
    *args: Any,
    key: Key = None,
    passphrase: bytes | None = None,
    golden: bool = True,
    floor: Thoroughness | str = Thoroughness.QUICK,
    partial: Sequence[str] = (),
    **kwargs: Any,
) -> Manifest | None:
    """`torch.save`, and the manifest of what it saved.

    The weights in the object, at the top or under any key, are tied to the models in memory that they are of; each
    model is described. The file is replaced as a whole, and saved even where it cannot be described.

    Args:
        obj: As `torch.save` takes it.
        f: As `torch.save` takes it; into an open file, a pipe or a device, there is no manifest.
        *args: As `torch.save` takes them.
        key: Private key to sign with: a file, `file:…` or `env:VARIABLE`.
        passphrase: Of an encrypted key.
        golden: Whether to record golden outputs.
        floor: How much time the numerics floor may take: `quick`, `full` or `none`.
        partial: Roles of components that are untrained by design.
        **kwargs: As `torch.save` takes them.

    Returns:
        The manifest; None when the object holds no model, such as an optimizer alone.

    Raises:
        ManifestError: It was saved, and its model cannot be described.

    Example:
        >>> model = manifest.load("ckpt.pt")
        >>> written = manifest.torch_save({"model": model.state_dict(), "epoch": 4}, "next.pt", golden=False)
        >>> written.checkpoint.state.path
        ['model']
        >>> manifest.verify("next.pt", fast=True).passed
        True
    """
    if not isinstance(f, str | os.PathLike):
        torch.save(obj, f, *args, **kwargs)
        warn("What is saved into an open file gets no manifest; pass its path.", NoManifestWarning)
        return None
    path = place_to_save(Path(f).absolute())
    if path is None:
        torch.save(obj, f, *args, **kwargs)
        warn_of_special(Path(f))
        return None
    options = record_options(key, golden=golden, passphrase=passphrase, floor=floor, partial=partial)
    with CheckpointRecorder(options, strict=True) as recorder:
        recorder.save(path, obj, lambda target: torch.save(obj, target, *args, **kwargs), to_file=True)
    return recorder.manifest_at(path)

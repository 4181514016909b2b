"""Creating: a manifest for a checkpoint that exists already, without changing a byte of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Unpack

from manifest import progress as steps
from manifest.capture.description import Description, manifest_of, require_recordable
from manifest.capture.options import Key, RecordKeywords, RecordOptions, record_options
from manifest.capture.provenance import facts_of, provenance_of
from manifest.checkpoint import Checkpoint, open_checkpoint, require_undamaged
from manifest.digests import files_digests
from manifest.errors import ArchitectureError, InputError, ManifestError
from manifest.escaping import printable
from manifest.families import family as family_named
from manifest.families.protocol import Captured, Creation
from manifest.grants import granted
from manifest.progress import Follower, followed
from manifest.schema.document import Manifest
from manifest.storage.run_record import RUN_RECORD, read_run_record, run_record_of
from manifest.storage.sidecars import require_checkpoint
from manifest.storage.transaction import sidecars_only
from manifest.weights.assign import misfits, shapes_of
from manifest.workflows.signing import publish_signed


@followed
def describe(
    path: str | os.PathLike[str],
    model_name: str | None = None,
    *,
    family: str = "open_clip",
    arguments: Mapping[str, Any] | None = None,
    model_config: str | os.PathLike[str] | None = None,
    pretrained: str | None = None,
    key: Key = None,
    golden: bool = True,
    state: str | None = None,
    allow: Sequence[str] = (),
    progress: Follower = None,
    **record: Unpack[RecordKeywords],
) -> Manifest:
    """Write a manifest beside an existing checkpoint.

    Args:
        path: The checkpoint.
        model_name: Name of its architecture in the family's registry. When None, the model is looked for among those
            on record in `.manifest/run.json`, which a run writes whose saves were not all seen.
        family: Name of the model library.
        arguments: As given to the family's builder, for example `{"force_quick_gelu": True}`.
        model_config: JSON file of a model config of your own, whose stem is the model's name.
        pretrained: Tag that the weights are known by; its preprocessing is taken.
        key: Private key to sign with.
        golden: Whether to record golden outputs.
        state: Which set of weights, by the keys that lead to it joined with dots; the one that is meant by default.
        allow: Modules and scripts of your own that may be run to rebuild a model that is on record.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.
        **record: `passphrase`, `floor`, `probes`, `example_inputs`, `precisions`, `partial`, `dataset` and
            `kinship`, as of `manifest.save`.

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
    del progress  # `followed` takes it
    checkpoint = require_checkpoint(path)
    require_recordable(checkpoint.name)
    options = record_options(key, golden=golden, **record)
    creations = [Creation(model_name, dict(arguments or {}), pretrained, family=family)] if model_name else []
    if model_config is not None:
        family_named(family).register(Path(model_config))
    # Who names a factory here asks for it to be run.
    runs = [module for creation in creations for module in creation.runs]
    with granted([*runs, *allow]), open_checkpoint(checkpoint) as stored, ThreadPoolExecutor() as background:
        require_undamaged(stored)
        steps.begin("architecture")
        creation, description = (
            _described(stored, creations[0], state, options) if creations else _made_in_a_run(stored, state, options)
        )
        manifest = manifest_of(
            [description],
            file_name=checkpoint.name,
            digests=background.submit(files_digests, [file.path for file in stored.files]),
            provenance=provenance_of(description.family, creation, facts_of({}, dataset=options.dataset, words=())),
            signer=options.hint,
        )
    with sidecars_only(checkpoint):
        publish_signed(None, checkpoint, manifest, options.signer)
    return manifest


create = describe
"""The older name."""


def _described(
    stored: Checkpoint, creation: Creation, state: str | None, options: RecordOptions
) -> tuple[Creation, Description]:
    """The weights of a checkpoint as those of the model that a call would make, and the call."""
    adapter = family_named(creation.family or "")
    captured = adapter.describe(creation)
    meant = _part_that_fits(stored, captured) if state is None else stored.select(state)
    return creation, Description(meant, adapter, captured, options=options)


def _made_in_a_run(stored: Checkpoint, state: str | None, options: RecordOptions) -> tuple[Creation, Description]:
    """The weights of a checkpoint as those of the model on the record of a run that has just these tensors.

    Raises:
        InputError: There is no such record.
        ArchitectureError: None of its models has them, or several have that are not the same.
    """
    name = printable(stored.path.name)
    if (record := run_record_of(stored.path)) is None:
        raise InputError(
            f"Nothing tells the architecture of {name}, and there is no {RUN_RECORD} of a run here; "
            "name it: `--family LIBRARY --model NAME`."
        )
    fitting: list[tuple[Creation, Description]] = []
    others: dict[str, str] = {}
    for made in read_run_record(record):
        try:
            arguments = family_named(made.family).arguments_of(made.arguments)
            creation = Creation(made.name, arguments, made.pretrained, family=made.family)
            creation, description = _described(stored, creation, state, options)
            misfit = misfits(description.captured.module, description.checkpoint)
        except ManifestError as error:
            others.setdefault(made.name, str(error))
            continue
        if misfit:
            others.setdefault(made.name, f"it has other tensors ({misfit[0]})")
        elif all(each.captured.architecture != description.captured.architecture for _, each in fitting):
            fitting.append((creation, description))
    if not fitting:
        reasons = "; ".join(f"{printable(made)}: {why.rstrip('.')}" for made, why in others.items()) or "it has none"
        raise ArchitectureError(
            f"None of the models in {RUN_RECORD} is that of {name} ({reasons}); name it with `--model NAME`."
        )
    if len(fitting) > 1:
        calls = [f"{creation.name} with {dict(creation.arguments)!r:.200}" for creation, _ in fitting]
        raise ArchitectureError(
            f"{len(fitting)} models in {RUN_RECORD} have the tensors of {name} ({printable('; '.join(calls))}); "
            "say which by `--model NAME --argument NAME=JSON`."
        )
    return fitting[0]


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

"""Converting: the weights of any readable checkpoint as safetensors, with its manifest carried over."""

from __future__ import annotations

import os
from pathlib import Path

from manifest import progress as steps
from manifest.checkpoint import Checkpoint, open_checkpoint, require_undamaged
from manifest.checkpoint.safetensors_writing import check_writable, write_safetensors
from manifest.digests import file_digests, weights_digest
from manifest.errors import CheckpointError, InputError, StorageError
from manifest.progress import Follower, followed
from manifest.schema.document import CheckpointRecord, File, Manifest
from manifest.signing import PrivateSigner, private_key
from manifest.storage.files import synchronise
from manifest.storage.places import kind_of, place_to_save
from manifest.storage.sidecars import described_checkpoint, has_manifest, select_recorded
from manifest.storage.transaction import read_manifest, replace_file, staging
from manifest.workflows.signing import publish_signed


@followed
def convert(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    state: str | None = None,
    untie: bool = False,
    force: bool = False,
    key: str | os.PathLike[str] | PrivateSigner | None = None,
    passphrase: bytes | None = None,
    progress: Follower = None,
) -> Manifest | None:
    """Write the weights of a checkpoint as safetensors, without torch and without running anything in it.

    Values stream from file to file. What is written is read back and must have the weights digest of the source.

    Args:
        path: The checkpoint: any container that can be read.
        output: The file to write.
        state: Which set of weights, by the keys that lead to it joined with dots; the one that is meant by default.
        untie: Write tied tensors once for each of their names; else once, with the other names noted in the metadata.
        force: Replace a file that exists.
        key: Private key to sign the carried-over manifest with; an older signature covers other bytes.
        passphrase: Of an encrypted key.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        The manifest beside the output; None when the source has none, or none that describes these weights.

    Raises:
        CheckpointError: The source cannot be read, or holds a tensor that safetensors cannot.
        StorageError: The source is not what its manifest describes, or the output cannot be written.

    Example:
        >>> written = manifest.convert("ckpt.pt", "converted.safetensors")
        >>> written.checkpoint.container
        'safetensors'
        >>> manifest.verify("converted.safetensors", fast=True).passed
        True
    """
    del progress  # `followed` takes it
    source, target = described_checkpoint(path), place_to_save(Path(output))
    if target is None:
        raise InputError(f"{output} is {kind_of(Path(output))}, expected the name of a file to write; name one.")
    if target.exists() and not force:
        raise InputError(f"{target} exists already; choose another name, or replace it with --force.")
    recorded = _described(read_manifest(source), state) if has_manifest(source) else None
    if key is not None and recorded is None:
        raise InputError(f"{source.name} has no manifest of these weights that could be signed; leave out the key.")
    signer = None if key is None else private_key(key, passphrase)
    with open_checkpoint(source) as opened, staging(target) as staged:
        stored = opened if state is None else opened.select(state)
        stored = stored if recorded is None else select_recorded(opened, recorded)
        try:
            check_writable(stored)
        except CheckpointError as error:
            raise CheckpointError(f"{source.name}: {error}", rule=error.rule) from None
        require_undamaged(stored)
        total = sum(tensor.nbytes for tensor in stored.tensors.values())
        steps.begin("digests", total)
        digest = _digest(stored)
        if recorded is not None and recorded.weights.digest != digest:
            raise StorageError(
                f"{source.name} does not hold the weights that its manifest describes, so it was not converted; "
                f"find out which of them is right with `manifest verify {source.name}`."
            )
        steps.begin("writing", total)
        with staged.open("xb") as file:
            write_safetensors(stored, file, aliases={} if untie else stored.aliases())
        synchronise(staged)
        with open_checkpoint(staged) as written:
            steps.begin("reading back", total)
            if _digest(written) != digest:
                raise StorageError(f"{target.name} did not come out as it was written; check the disk and try again.")
        if recorded is None:
            replace_file(staged, target)
            return None
        steps.begin("digests of the file")
        blake3, sha = file_digests(staged)
        size = staged.stat().st_size
        manifest = recorded.model_copy(
            update={
                "signer": signer.public.hint if signer else None,
                "weights": recorded.weights.under_own_names(),
                "others": [],  # one set of weights is written
                "checkpoint": CheckpointRecord(
                    container="safetensors", files=[File(path=target.name, size=size, blake3=blake3, sha256=sha)]
                ),
            }
        )
        publish_signed(staged, target, manifest, signer)
    return manifest


def _described(manifest: Manifest, state: str | None) -> Manifest | None:
    """The manifest with the weights under some keys as those that are meant; None where it does not describe them."""
    if state is None or state == ".".join(manifest.checkpoint.state.path):
        return manifest
    return next((manifest.meaning(each) for each in manifest.others if state == ".".join(each.state.path)), None)


def _digest(stored: Checkpoint) -> str:
    return weights_digest((name, stored.digest(tensor)) for name, tensor in stored.tensors.items())

"""Signing: vouching for a checkpoint that already has a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from manifest.digests import file_digests
from manifest.errors import StorageError
from manifest.schema.document import Manifest, serialize
from manifest.signing import PrivateKey, private_key, sign_resources
from manifest.storage.sidecars import Sidecars, described_checkpoint, recorded_files
from manifest.storage.transaction import publish, publish_directory, read_manifest, sidecars_only


def sign(
    path: str | os.PathLike[str], key: str | os.PathLike[str] | PrivateKey, *, passphrase: bytes | None = None
) -> Path:
    """Sign a checkpoint together with its manifest, which from then on names the key.

    Returns:
        Path of the signature.

    Raises:
        StorageError: The checkpoint is not what the manifest describes, so there is nothing to vouch for.

    Example:
        >>> manifest.sign("ckpt.pt", "release.key").name
        'ckpt.pt.manifest.sig'
        >>> manifest.verify("ckpt.pt", key="release.pub", fast=True).passed
        True
    """
    checkpoint = described_checkpoint(path)
    signer = private_key(key, passphrase)
    sidecars = Sidecars(checkpoint)
    manifest = read_manifest(checkpoint)
    files = recorded_files(checkpoint, manifest)
    if any(not path.is_file() or file_digests(path) != (file.blake3, file.sha256) for file, path in files):
        raise StorageError(
            f"{checkpoint.name} is not the checkpoint that {sidecars.manifest.name} describes, so it was not signed; "
            f"find out which of them is right with `manifest verify {checkpoint.name}`."
        )
    with sidecars_only(checkpoint):
        publish_signed(None, checkpoint, manifest.model_copy(update={"signer": signer.public.hint}), signer)
    return sidecars.signature


def publish_signed(
    staged: Path | None,
    checkpoint: Path,
    manifest: Manifest,
    key: PrivateKey | None,
    still: Callable[[], bool] = lambda: True,
) -> bool:
    """Sign a manifest together with the files that it describes, where there is a key, and put everything in place.

    Returns:
        Whether it was still to be done when no other process was at it.
    """
    data = serialize(manifest)
    signature = _signature(checkpoint.name, manifest, data, Sidecars(checkpoint).manifest.name, key)
    return publish(staged, checkpoint, data, signature, still)


def publish_signed_directory(staged: Path, directory: Path, manifest: Manifest, key: PrivateKey | None) -> None:
    """The same of a distributed checkpoint whose files are in a directory of their own."""
    data = serialize(manifest)
    signature = _signature(directory.name, manifest, data, Sidecars(staged).manifest.name, key)
    publish_directory(staged, directory, data, signature)


def _signature(name: str, manifest: Manifest, data: bytes, file_name: str, key: PrivateKey | None) -> bytes | None:
    """The signature of a checkpoint of some name, whose manifest is written into a file of another."""
    if key is None:
        return None
    resources = {file.path: file.sha256 for file in manifest.checkpoint.files}
    return sign_resources(name, {**resources, file_name: sha256(data).hexdigest()}, key)

"""How one more signature comes beside a checkpoint whose manifest others have signed already."""

from __future__ import annotations

from pathlib import Path

from manifest.errors import StorageError
from manifest.signing import read_bundle
from manifest.storage.files import _alone_in, _sync_directory, write_durably
from manifest.storage.sidecars import MOST_SIGNATURES, Sidecars, is_there
from manifest.storage.transaction import SidecarContents, _covers, _read, _read_signatures


def is_signed(contents: SidecarContents) -> bool:
    """Whether a signature, whoever made it, covers the manifest beside it."""
    return any(_covers(data, contents.manifest_sha256) for data in contents.signatures.values())


def add_signature(checkpoint: Path, signature: bytes, contents: SidecarContents) -> Path:
    """Put one more signature beside a checkpoint; the manifest and the signatures of others stay as they are.

    One by the same key is replaced, or else one that covers another manifest.

    Args:
        checkpoint: What is signed.
        signature: The bytes of the signature.
        contents: The sidecars that were read before it was signed.

    Returns:
        Where the signature lies.

    Raises:
        StorageError: The manifest was replaced meanwhile, or there is no room for another signature.
    """
    sidecars = Sidecars(checkpoint)
    with _alone_in(sidecars.manifest.parent):
        if _read(sidecars.manifest) != contents.manifest:
            raise StorageError(f"{sidecars.manifest.name} was replaced meanwhile, so it was not signed; sign it again.")
        place = _place_of_signature(sidecars, read_bundle(signature).hint, contents.manifest_sha256)
        write_durably(place, signature, checkpoint)
        _sync_directory(place.parent)
        return place


def _place_of_signature(sidecars: Sidecars, hint: str, manifest_sha256: str) -> Path:
    """The file for a key's signature: the one that it has, one that is of no use, or the next that is free."""
    useless = None
    for name, data in _read_signatures(sidecars).items():
        path = sidecars.manifest.with_name(name)
        if not _covers(data, manifest_sha256):
            useless = useless or path
        elif read_bundle(data).hint == hint:
            return path
    free = (sidecars.signature, *map(sidecars.cosignature, range(2, MOST_SIGNATURES + 1)))
    place = useless or next((path for path in free if not is_there(path)), None)
    if place is None:
        raise StorageError(
            f"{sidecars.checkpoint.name} has {MOST_SIGNATURES} signatures, expected fewer; remove one of no use."
        )
    return place

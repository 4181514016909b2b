"""Whether a file is the one that the manifest beside it describes: by its size at once, by its bytes where it matters.

A manifest may be left over from a file that was replaced. So whoever says anything of a file out of its manifest asks
here first, or says that the bytes were not read.
"""

from __future__ import annotations

import os
from pathlib import Path

from manifest.digests import file_blake3
from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.schema.document import Manifest
from manifest.storage.sidecars import has_manifest, recorded_files
from manifest.storage.transaction import read_manifest
from manifest.warning import warn


def other_size(checkpoint: Path, manifest: Manifest) -> str | None:
    """What shows without reading it that a checkpoint is not what a manifest describes, as a clause; None if nothing.

    Raises:
        OSError: A file may not be looked at.
    """
    for file, path in recorded_files(checkpoint, manifest):
        if not path.is_file():
            return f"{printable(path.name)} is not there"
        if (size := path.stat().st_size) != file.size:
            return f"{printable(path.name)} is {size:,} bytes long, and {file.size:,} are described"
    return None


def other_bytes(checkpoint: Path, manifest: Manifest) -> str | None:
    """The same by all of its bytes.

    Raises:
        OSError: A file cannot be read.
    """
    if (problem := other_size(checkpoint, manifest)) is not None:
        return problem
    files = recorded_files(checkpoint, manifest)
    changed = next((path for file, path in files if file_blake3(path) != file.blake3), None)
    return None if changed is None else f"{printable(changed.name)} has other bytes"


def own_manifest(path: str | os.PathLike[str], consequence: str) -> Manifest | None:
    """The manifest of a checkpoint that is byte for byte what it describes.

    Args:
        path: The checkpoint.
        consequence: What comes of it where it is not, for the warning.

    Returns:
        None when there is no manifest beside it; also, with a warning, when the manifest cannot be read or the bytes
        are not those that it describes, for then nobody knows what these weights are.
    """
    checkpoint = Path(path)
    try:
        if not has_manifest(checkpoint):
            return None
        manifest = read_manifest(checkpoint)
        changed = other_bytes(checkpoint, manifest)
    except ManifestError as error:
        changed = str(error)
    except OSError as error:
        changed = f"it cannot be read: {error.strerror}"
    if changed is None:
        return manifest
    warn(
        f"{checkpoint.name} is not what its manifest describes ({changed}), so {consequence}; "
        f"`manifest verify {checkpoint.name}` says more."
    )
    return None

"""Where a manifest and its signatures live beside a checkpoint, and how they are replaced together.

Three files cannot be renamed at once. So the new sidecars are first written, in full, as `*.pending`; then the
checkpoint is renamed into place, which is the moment of the save; then the signature, then the manifest. A pending
manifest holds the digest of the checkpoint of its save, and a pending signature that of its manifest. Whoever reads a
checkpoint uses the pending manifest that describes it, and changes nothing; the next save, or `manifest repair`,
finishes the job. One that does not describe it belongs to a save that never happened. A manifest that was signed and
describes the checkpoint always counts before a pending one, which anybody may have put there.

Whoever signs after the first puts a signature of its own beside the others, in files that are numbered from 2 on.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from manifest.errors import InputError, ManifestError, NoWeightsError
from manifest.escaping import no_such_file, printable
from manifest.schema.document import LARGEST, File, Manifest
from manifest.storage.places import kind_of_mode

if TYPE_CHECKING:
    from manifest.checkpoint import Checkpoint

MANIFEST_ENDING, SIGNATURE_ENDING = ".manifest.json", ".manifest.sig"
"""How the names of the files beside a checkpoint end, after its own."""
MANIFEST_INSIDE, SIGNATURE_INSIDE = "manifest.json", "model.sig"
"""Their names in a checkpoint that is a directory."""
MOST_SIGNATURES = 16
SIGNATURE_ENDINGS = (SIGNATURE_ENDING, *(f".manifest.{number}.sig" for number in range(2, MOST_SIGNATURES + 1)))
SIGNATURES_INSIDE = (SIGNATURE_INSIDE, *(f"model.{number}.sig" for number in range(2, MOST_SIGNATURES + 1)))
"""How those of all signatures are called, the first and those beside it."""
_PENDING = ".pending"
_MOST_IN_A_FOLDER = 1000


@dataclass(frozen=True)
class Sidecars:
    """Paths of the files beside one checkpoint, or in it when it is a directory."""

    checkpoint: Path

    @property
    def manifest(self) -> Path:
        return self._named(MANIFEST_ENDING, MANIFEST_INSIDE)

    @property
    def signature(self) -> Path:
        return self._named(SIGNATURE_ENDING, SIGNATURE_INSIDE)

    def cosignature(self, number: int) -> Path:
        """Where another signature lies beside the first: number 2 and on."""
        return self._named(SIGNATURE_ENDINGS[number - 1], SIGNATURES_INSIDE[number - 1])

    @property
    def signatures(self) -> list[Path]:
        """Every signature that is there: the first if it is, and the others up to the first number that is missing."""
        others = map(self.cosignature, range(2, MOST_SIGNATURES + 1))
        return [path for path in [self.signature] if is_there(path)] + list(takewhile(is_there, others))

    @property
    def pending_manifest(self) -> Path:
        return self._named(MANIFEST_ENDING + _PENDING, MANIFEST_INSIDE + _PENDING)

    @property
    def pending_signature(self) -> Path:
        return self._named(SIGNATURE_ENDING + _PENDING, SIGNATURE_INSIDE + _PENDING)

    def _named(self, beside: str, inside: str) -> Path:
        if self.checkpoint.is_dir():
            return self.checkpoint / inside
        return self.checkpoint.with_name(f"{self.checkpoint.name}{beside}")


def is_there(path: Path) -> bool:
    """Whether something lies at a path, be it a link that leads nowhere."""
    return os.path.lexists(path)


class Pending(StrEnum):
    """What became of a pending manifest that describes the checkpoint."""

    USED = "used"
    USED_OVER_SIGNED = "used over signed"  # one that was signed lies there, and describes other bytes
    LEFT = "left"  # one that was signed describes the bytes, and counts


def pending_words(checkpoint: Path, pending: Pending) -> str:
    """What became of a checkpoint's pending manifest, as a sentence."""
    sidecars = Sidecars(checkpoint)
    name = sidecars.pending_manifest.name
    match pending:
        case Pending.USED:
            return f"{name} describes {checkpoint.name} and was used: a save was cut off before it was renamed."
        case Pending.USED_OVER_SIGNED:
            return (
                f"{name} describes {checkpoint.name} and was used; {sidecars.manifest.name}, which was signed, "
                "describes other bytes."
            )
        case Pending.LEFT:
            return f"{name} lies there and was not used: {sidecars.manifest.name} was signed, and counts."


def require_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The path of an existing regular file or directory.

    Raises:
        InputError: There is none.
    """
    checkpoint = Path(path)
    try:
        mode = checkpoint.stat().st_mode
    except FileNotFoundError:
        raise InputError(no_such_file(os.fspath(path))) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{checkpoint} cannot be read ({reason}); check the path.") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{checkpoint} is {kind_of_mode(mode)}, expected a file or a directory; "
            "copy what it gives into a file first."
        )
    # Of the current directory and the one above, the name is what a report calls the checkpoint.
    return checkpoint if checkpoint.name not in ("", "..") else checkpoint.resolve()


def recorded_files(checkpoint: Path, manifest: Manifest) -> list[tuple[File, Path]]:
    """The files that a manifest describes, each with its path; a file by itself may have been renamed."""
    files = manifest.checkpoint.files
    if checkpoint.is_dir():
        return [(file, checkpoint / file.path) for file in files]
    others = [(file, checkpoint.with_name(file.path)) for file in files[1:]]
    return [(files[0], checkpoint), *others]


def select_recorded(stored: Checkpoint, manifest: Manifest) -> Checkpoint:
    """The weights in an open checkpoint that a manifest describes, by the names that it has for them.

    Raises:
        InputError: They are not there.
    """
    from manifest.checkpoint import View

    state, weights = manifest.checkpoint.state, manifest.weights
    return stored.select(View(tuple(state.path), state.prefix, weights.stored)).with_aliases(weights.tied)


def bring_sidecars(checkpoint: Checkpoint) -> None:
    """Of a checkpoint at an address, fetch manifest and signatures to where its file appears.

    Raises:
        InputError: They cannot be had.
    """
    if checkpoint.mirror is not None:
        sidecars = Sidecars(checkpoint.path)
        checkpoint.mirror.bring((sidecars.manifest.name, sidecars.signature.name), LARGEST)
        if sidecars.signature.exists():
            for number in range(2, MOST_SIGNATURES + 1):
                path = sidecars.cosignature(number)
                checkpoint.mirror.bring((path.name,), LARGEST)
                if not path.exists():
                    break


def is_manifest(path: Path) -> bool:
    """Whether a path names a manifest by itself, of a file or of a directory."""
    return path.name.endswith(MANIFEST_INSIDE) and path.is_file()


def has_manifest(checkpoint: Path) -> bool:
    """Whether a manifest, published or pending, lies beside a file, or beside the one that a link leads to."""
    return _has_own(_described(checkpoint))


def _described(checkpoint: Path) -> Path:
    """Where the sidecars are: beside a link itself, or else beside what it leads to."""
    return checkpoint.resolve() if checkpoint.is_symlink() and not _has_own(checkpoint) else checkpoint


def _has_own(checkpoint: Path) -> bool:
    sidecars = Sidecars(checkpoint)
    return sidecars.manifest.is_file() or sidecars.pending_manifest.is_file()


def described_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The checkpoint that a path names: a file, a directory of shards, or the one described file in a folder.

    Trainers write a folder with the weights in a file of their own, such as `checkpoint-16/model.safetensors`.

    Raises:
        InputError: There is none, or the folder holds several.
    """
    checkpoint = require_checkpoint(path)
    if not checkpoint.is_dir() or has_manifest(checkpoint):
        return checkpoint
    sidecars = islice(checkpoint.glob(f"*{MANIFEST_ENDING}"), _MOST_IN_A_FOLDER)
    described = (each.with_name(each.name.removesuffix(MANIFEST_ENDING)) for each in sidecars)
    found = sorted(path for path in described if path.is_file())
    if len(found) > 1:
        names = ", ".join(printable(each.name, 100) for each in found[:3])
        raise InputError(
            f"{checkpoint} holds {len(found)} checkpoints with manifests ({names}{', …' * (len(found) > 3)}), "
            "expected one; name the file that you mean."
        )
    return found[0] if found else checkpoint


def named_checkpoints(places: Sequence[str], *, described: bool = False) -> list[Path]:
    """The checkpoints that places name, each once: files as they are named, what matches patterns, what is in folders.

    In folders and among matches, what lies beside weights is none, such as the state of an optimizer.
    What is not there is named too, for whoever opens it to say so.

    Args:
        places: Files, folders, or patterns such as `runs/**/*.pt`.
        described: Whether of a folder only those with a manifest are meant.

    Raises:
        InputError: There are too many.
    """
    found: dict[Path, None] = {}
    for place in places:
        path = Path(place)
        try:
            exists, is_file = path.exists(), path.is_file()
        except OSError:  # a name that is too long to be looked at
            exists = is_file = True
        if is_file:
            found[path] = None
            continue
        matches = [path] if exists else sorted(map(Path, glob.glob(place, recursive=True))) or [path]  # noqa: PTH207
        for each in matches:
            found |= dict.fromkeys(_inside(each, described=described) if each.is_dir() else [each])
    named = set(map(Path, places))
    kept = [each for each in found if each in named or described or not _is_beside_weights(each)]
    return kept or list(found)


def _inside(folder: Path, *, described: bool) -> list[Path]:
    """The checkpoints in a folder; the folder itself where it is one, or where none is known by its name."""
    if has_manifest(folder):
        return [folder]
    from manifest.checkpoint.discovering import discover

    return [each for each in discover([folder]) if has_manifest(each) or not described] or [folder]


def _is_beside_weights(path: Path) -> bool:
    if has_manifest(path):
        return False
    from manifest.checkpoint import open_checkpoint

    try:
        open_checkpoint(path).close()
    except NoWeightsError:
        return True
    except ManifestError:  # it may be a checkpoint that is broken
        return False
    return False

"""Repairing: what a killed save left behind is finished where it is whole, and removed where its writer is gone.

Nothing that was signed is replaced by what nobody signed, unless a key is given to sign it with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from manifest.checkpoint.directories import DISTRIBUTED
from manifest.errors import DocumentError, InputError
from manifest.escaping import printable
from manifest.signing import PrivateSigner, private_key
from manifest.storage.places import is_special, place_to_save
from manifest.storage.sidecars import Sidecars, require_checkpoint
from manifest.storage.transaction import finish_pending, sidecars_only, stale_pending, unfinished
from manifest.temporaries import Leftovers, is_temporary, remove_leftovers
from manifest.workflows.signing import publish_signed

_PENDING = (".manifest.json.pending", ".manifest.sig.pending")
"""How the names of pending sidecars of files end."""


@dataclass
class Repaired:
    """What was done, and what was not, each as a sentence.

    Attributes:
        done: What was finished or removed.
        left: What may belong to a process that lives, or to a checkpoint that is elsewhere.
        refused: What only a key, or a person, can decide.
    """

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def repair(
    path: str | os.PathLike[str],
    *,
    key: str | os.PathLike[str] | PrivateSigner | None = None,
    passphrase: bytes | None = None,
) -> Repaired:
    """Finish the saves that were cut off, and remove the temporary files of processes that are gone.

    Args:
        path: A checkpoint, also one whose first save was killed; or a folder, with all folders in it.
        key: Private key to sign an unsigned pending manifest with that takes the place of a signed one.
        passphrase: Of an encrypted key.

    Raises:
        InputError: There is nothing at that path.
        KeyFileError: The key cannot be used.
        StorageError: The place cannot be written.

    Example:
        >>> repaired = manifest.repair("ckpt.pt")
        >>> repaired.done, repaired.left, repaired.refused
        ([], [], [])
    """
    place, signer = Path(path), None if key is None else private_key(key, passphrase)
    repaired = Repaired()
    if place.is_dir() and not _is_checkpoint(place):
        for folder in _folders(place):
            _tell(repaired, remove_leftovers(folder))
            for checkpoint in _with_pending(folder):
                _repair(repaired, checkpoint, signer)
        return repaired
    if is_special(place):
        require_checkpoint(place)
    checkpoint = place_to_save(place) or place
    _tell(repaired, remove_leftovers(checkpoint.parent, checkpoint.name))
    if checkpoint.is_dir():
        _tell(repaired, remove_leftovers(checkpoint))
    if not checkpoint.exists() and not repaired.done and not repaired.left and not _pending_of(checkpoint):
        raise InputError(f"There is no file {path}, and nothing that a save of it left; check the path.")
    _repair(repaired, checkpoint, signer)
    return repaired


def _repair(repaired: Repaired, checkpoint: Path, signer: PrivateSigner | None) -> None:
    """Finish or remove the pending sidecars of one checkpoint."""
    sidecars, name = Sidecars(checkpoint), printable(checkpoint.name)
    if not _pending_of(checkpoint):
        return
    if not checkpoint.exists():
        repaired.left.append(
            f"{printable(sidecars.pending_manifest.name)} stays: there is no {name} beside it; remove it if "
            f"{name} was never saved, or put {name} back."
        )
        return
    with sidecars_only(checkpoint):
        if finish_pending(checkpoint):
            repaired.done.append(f"The save of {name} that was cut off is finished: its manifest is in place.")
            return
        try:
            pending = unfinished(checkpoint)
        except DocumentError:
            pending = None
        if pending is not None and signer is not None:
            publish_signed(None, checkpoint, pending.model_copy(update={"signer": signer.public.hint}), signer)
            repaired.done.append(f"The save of {name} that was cut off is finished, and signed anew.")
        elif pending is not None:
            repaired.refused.append(
                f"The manifest of {name} was signed, and {printable(sidecars.pending_manifest.name)} would replace it; "
                "sign that one by `--key`, or remove it if no save of yours was cut off."
            )
        elif stale := stale_pending(checkpoint):
            for each in stale:
                each.unlink(missing_ok=True)
            repaired.done.append(f"Removed the pending sidecars of a save of {name} that never happened.")
        else:
            repaired.refused.append(
                f"Neither the manifest of {name} nor the pending one beside it describes its bytes; "
                f"get {name} again, or describe it by `manifest create`."
            )


def _tell(repaired: Repaired, found: Leftovers) -> None:
    repaired.done += [f"Removed {_shown(path)}: its writer is gone." for path in found.removed]
    repaired.left += [f"{_shown(path)} stays: its writer may live, here or elsewhere." for path in found.kept]


def _shown(path: Path) -> str:
    return printable(str(path), 1000)


def _is_checkpoint(folder: Path) -> bool:
    return (folder / DISTRIBUTED).is_file() or bool(_pending_of(folder)) or Sidecars(folder).manifest.is_file()


def _folders(top: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(top):
        folders[:] = sorted(name for name in folders if not is_temporary(name))
        yield Path(place)


def _with_pending(folder: Path) -> list[Path]:
    """The checkpoints in a folder that have pending sidecars, and the folder itself where it has them."""
    names = sorted(path.name for path in folder.iterdir() if path.name.endswith(_PENDING))
    own = {name[: -len(end)] for name in names for end in _PENDING if name.endswith(end)}
    here = [folder] if _pending_of(folder) else []
    return here + [folder / name for name in sorted(own)]


def _pending_of(checkpoint: Path) -> list[Path]:
    sidecars = Sidecars(checkpoint)
    return [path for path in (sidecars.pending_manifest, sidecars.pending_signature) if path.is_file()]

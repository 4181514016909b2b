"""How a checkpoint, its manifest and its signature are replaced together, and how they are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from manifest.checkpoint.directories import DISTRIBUTED
from manifest.digests import file_blake3
from manifest.errors import DocumentError, InputError, NoManifestError, SignatureError, StorageError
from manifest.schema.document import Manifest, parse
from manifest.storage.files import _STAGED, _alone_in, _mode_of, _sync_directory, write_durably
from manifest.storage.places import is_special, kind_of, kind_of_mode, storage_errors
from manifest.storage.sidecars import Pending, Sidecars, _described, recorded_files
from manifest.storage.suppress_recording import suppress_recording
from manifest.temporaries import remove_leftovers, temporary_directory


@dataclass(frozen=True)
class SidecarContents:
    """What lies beside a checkpoint, as bytes.

    Attributes:
        manifest: The manifest that counts.
        signatures: The signatures beside it, by their file names; of a pending manifest only those that cover it.
        pending: What became of a pending manifest that describes the checkpoint; None when there is none.
    """

    manifest: bytes
    signatures: Mapping[str, bytes]
    pending: Pending | None = None

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def read_sidecars(checkpoint: Path) -> SidecarContents:
    """The manifest and signature of a checkpoint; nothing is changed.

    Raises:
        NoManifestError: There is no manifest beside it.
    """
    sidecars = Sidecars(_described(checkpoint))
    contents = _pending(sidecars)
    if contents is not None:
        return contents
    manifest = _read(sidecars.manifest)
    if manifest is None:
        name = checkpoint.name
        found = (
            f"{name} is a directory without a manifest"
            if checkpoint.is_dir()
            else f"There is no manifest beside {name}"
        )
        raise NoManifestError(
            f"{found}, expected {sidecars.manifest.name}; "
            f"write one with `manifest create {name} --family LIBRARY --model NAME`, "
            "or save the model with `manifest.save`."
        )
    return SidecarContents(manifest, _read_signatures(sidecars))


def read_manifest(checkpoint: Path, *, strict: bool = False) -> Manifest:
    """The manifest beside a checkpoint, parsed."""
    contents = read_sidecars(checkpoint)
    return parse(contents.manifest, source=Sidecars(checkpoint).manifest.name, strict=strict)


@contextlib.contextmanager
def staging(checkpoint: Path) -> Iterator[Path]:
    """A temporary name beside a checkpoint-to-be, whose file is gone afterwards if it was not published.

    What a killed save to the same place has left is removed first. Errors of the file system become one-sentence
    `StorageError`s, also those that libraries wrap in their own.
    """
    with suppress_recording(), storage_errors(checkpoint):
        remove_leftovers(checkpoint.parent, checkpoint.name)
        with temporary_directory(checkpoint) as hidden:
            yield hidden / _STAGED


@contextlib.contextmanager
def sidecars_only(checkpoint: Path) -> Iterator[None]:
    """Inside, only the sidecars of a checkpoint change; errors of the file system become `StorageError`s."""
    with suppress_recording(), storage_errors(checkpoint):
        yield


@contextlib.contextmanager
def staging_directory(directory: Path) -> Iterator[Path]:
    """A directory whose files `publish_directory` can move into a checkpoint-to-be without copying them.

    It is in the checkpoint's directory where there is one already, which may be a file system of its own, and beside it
    otherwise. What a killed save to the same place has left is removed first.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(directory.parent, directory.name)
    remove_leftovers(directory, directory.name)
    with temporary_directory(directory, directory if directory.is_dir() else None) as hidden:
        staged = hidden / "files"
        staged.mkdir()
        yield staged


def publish(
    staged: Path | None,
    checkpoint: Path,
    manifest: bytes,
    signature: bytes | None,
    still: Callable[[], bool] = lambda: True,
) -> bool:
    """Put a checkpoint, its manifest and its signature in place, all or nothing.

    Args:
        staged: The written checkpoint to move into place, or None when only the sidecars of `checkpoint` change.
        checkpoint: Where it goes.
        manifest: The bytes of its manifest.
        signature: The bytes of its signature; None removes an older one, which cannot hold any more.
        still: Whether it is still to be done; asked when no other process is doing the same in that directory.

    Returns:
        Whether it was done.
    """
    with _alone_in(Sidecars(checkpoint).manifest.parent):
        if not still():
            return False
        if staged is not None:
            # Or the checkpoint of now would lose its manifest if this save is killed.
            _finish_pending(checkpoint, over_signed=True)
        _publish(staged, checkpoint, manifest, signature)
        return True


def finish_pending(checkpoint: Path) -> bool:
    """Put the pending sidecars in place that count already, and say whether there were any.

    A signed manifest is not replaced by one that nobody signed, nor one that describes the checkpoint by any other.
    """
    with _alone_in(Sidecars(checkpoint).manifest.parent):
        return _finish_pending(checkpoint, over_signed=False)


def _finish_pending(checkpoint: Path, *, over_signed: bool) -> bool:
    sidecars = Sidecars(checkpoint)
    contents = _pending(sidecars)
    if contents is None or contents.pending is Pending.LEFT:
        return False
    if contents.pending is Pending.USED_OVER_SIGNED and not contents.signatures and not over_signed:
        return False
    _finish(sidecars, contents.manifest_sha256)
    return True


def stale_pending(checkpoint: Path) -> tuple[Path, ...]:
    """The pending sidecars of a checkpoint that has a manifest which describes it, where they do not."""
    sidecars = Sidecars(checkpoint)
    published = _read(sidecars.manifest)
    paths = [path for path in (sidecars.pending_manifest, sidecars.pending_signature) if path.is_file()]
    if not paths or published is None or _pending(sidecars) is not None or not _describes(published, checkpoint):
        return ()
    return tuple(paths)


def unfinished(checkpoint: Path) -> Manifest | None:
    """The pending manifest that describes a checkpoint and would replace one that was signed."""
    sidecars = Sidecars(checkpoint)
    contents, pending = _pending(sidecars), _read(sidecars.pending_manifest)
    if contents is None or contents.pending is Pending.USED or pending is None:
        return None
    return parse(pending)


def _publish(staged: Path | None, checkpoint: Path, manifest: bytes, signature: bytes | None) -> None:
    sidecars = Sidecars(checkpoint)
    for path in (checkpoint, sidecars.manifest, sidecars.signature):
        if is_special(path):
            raise StorageError(f"{path} is {kind_of(path)}, which no save replaces; save elsewhere.")
    pending = [(sidecars.pending_manifest, manifest)]
    if signature is not None:
        pending.append((sidecars.pending_signature, signature))
    else:
        sidecars.pending_signature.unlink(missing_ok=True)
    try:
        for path, data in reversed(pending):
            write_durably(path, data, checkpoint)
        _sync_directory(sidecars.manifest.parent)
        if staged is not None:
            staged.chmod(_mode_of(checkpoint))
            staged.replace(checkpoint)
    except BaseException:
        for path, _ in pending:
            path.unlink(missing_ok=True)
        raise
    _finish(sidecars, hashlib.sha256(manifest).hexdigest())


def publish_directory(staged: Path, directory: Path, manifest: bytes, signature: bytes | None) -> None:
    """Put the files of a distributed checkpoint, its manifest and its signature in place.

    A directory that is not there yet appears whole. In one that is, the manifest goes first and comes last, so that a
    kill leaves none in between; files there that belong to no checkpoint stay as they are.

    Args:
        staged: What `staging_directory` made for it, with all files written and synchronised.
        directory: Where they go.
        manifest: The bytes of the manifest.
        signature: The bytes of its signature, if it is signed.
    """
    sidecars = Sidecars(staged)
    write_durably(sidecars.manifest, manifest, directory)
    if signature is not None:
        write_durably(sidecars.signature, signature, directory)
    _sync_directory(staged)
    place = staged.parent.parent
    with _alone_in(place):
        if place == directory:
            _move_all(staged, directory)
        else:
            staged.rename(directory)
        _sync_directory(place)


def _move_all(staged: Path, directory: Path) -> None:
    """Replace the distributed checkpoint in a directory by the one in another."""
    clear_sidecars(directory)
    _sync_directory(directory)
    for old in (directory / DISTRIBUTED, *directory.glob(_SHARDS)):
        old.unlink(missing_ok=True)
    last = [DISTRIBUTED, Sidecars(staged).signature.name, Sidecars(staged).manifest.name]
    for path in sorted(staged.iterdir(), key=lambda path: last.index(path.name) if path.name in last else -1):
        path.replace(directory / path.name)
    staged.rmdir()


def replace_file(staged: Path, target: Path, *, durably: bool = True) -> None:
    """Move a written and synchronised file that has no sidecars into place; sidecars of a file before it are removed.

    They go first: a checkpoint without its manifest is honest, one beside another's is not.
    """
    with _alone_in(target.parent):
        clear_sidecars(target)
        staged.chmod(_mode_of(target))
        staged.replace(target)
        if durably:
            _sync_directory(target.parent)


def clear_sidecars(checkpoint: Path) -> None:
    """Remove what lies beside a checkpoint and does not describe it, or soon will not."""
    sidecars = Sidecars(checkpoint)
    own = (sidecars.manifest, sidecars.pending_manifest, sidecars.pending_signature)
    for path in (*reversed(sidecars.signatures), *own):
        path.unlink(missing_ok=True)


def remove_manifest(path: str | os.PathLike[str]) -> None:
    """Remove the manifest and the signatures beside a checkpoint that is about to be overwritten.

    Args:
        path: The checkpoint; nothing is done where it has none.

    Example:
        >>> manifest.remove_manifest("about-to-be-overwritten.pt")
    """
    clear_sidecars(Path(path))


def _pending(sidecars: Sidecars) -> SidecarContents | None:
    """The sidecars that count where a pending manifest describes the checkpoint; None where none does."""
    pending = _read(sidecars.pending_manifest)
    if pending is None or not _describes(pending, sidecars.checkpoint):
        return None
    sha256 = hashlib.sha256(pending).hexdigest()
    published, signatures = _read(sidecars.manifest), _read_signatures(sidecars)
    if covering := {name: data for name, data in signatures.items() if _covers(data, sha256)}:
        return SidecarContents(pending, covering, Pending.USED)  # cut off between the two renames
    signed = published is not None and (bool(signatures) or _names_a_signer(published))
    if published is not None and signed and _describes(published, sidecars.checkpoint):
        return SidecarContents(published, signatures, Pending.LEFT)
    own = _read(sidecars.pending_signature)
    covering = {sidecars.pending_signature.name: own} if own is not None and _covers(own, sha256) else {}
    return SidecarContents(pending, covering, Pending.USED_OVER_SIGNED if signed else Pending.USED)


def _describes(manifest: bytes, checkpoint: Path) -> bool:
    """Whether a checkpoint's files are those of a manifest, byte for byte."""
    try:
        files = recorded_files(checkpoint, parse(manifest))
        return all(
            path.is_file() and path.stat().st_size == file.size and file_blake3(path) == file.blake3
            for file, path in files
        )
    except (DocumentError, FileNotFoundError):
        return False


def _names_a_signer(manifest: bytes) -> bool:
    try:
        return parse(manifest).signer is not None
    except DocumentError:
        return False


def _finish(sidecars: Sidecars, manifest_sha256: str) -> None:
    """Rename pending sidecars into place, signature first, since the pending manifest marks the job as unfinished.

    Another process that reads at this moment may do the same; what it has renamed already is no error.
    """
    with contextlib.suppress(FileNotFoundError):
        sidecars.pending_signature.replace(sidecars.signature)
    for name, data in reversed(_read_signatures(sidecars).items()):
        if not _covers(data, manifest_sha256):
            sidecars.manifest.with_name(name).unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sidecars.pending_manifest.replace(sidecars.manifest)
    _sync_directory(sidecars.manifest.parent)


def _read_signatures(sidecars: Sidecars) -> dict[str, bytes]:
    """The signatures beside a checkpoint, by their file names in the order of their numbers."""
    read = ((path.name, _read(path)) for path in sidecars.signatures)
    return {name: data for name, data in read if data is not None}


def _covers(signature: bytes, manifest_sha256: str) -> bool:
    from manifest.signing import read_bundle  # few checkpoints have a pending manifest

    try:
        return manifest_sha256 in read_bundle(signature).resources.values()
    except SignatureError:
        return False


def _read(path: Path) -> bytes | None:
    try:
        # Without O_NONBLOCK, opening a pipe would wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise InputError(f"{path.name} is {kind_of_mode(mode)}, expected a file; put the file itself there.")
            return file.read(_UNREADABLE)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}); check its permissions.") from None


_SHARDS = "__*.distcp"
"""What `torch.distributed.checkpoint` calls the files of its processes."""


_UNREADABLE = 256 << 20  # bytes; no sidecar is as large, and reading stops there

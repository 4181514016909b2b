"""Where a manifest and a signature live beside a checkpoint, and how the three are replaced together.

Three files cannot be renamed at once. So the new sidecars are first written, in full, as `*.pending`; then the
checkpoint is renamed into place, which is the moment of the save; then the signature, then the manifest. A pending
manifest holds the digest of the checkpoint of its save, and a pending signature that of its manifest. Whoever reads a
checkpoint uses the pending manifest that describes it, and changes nothing; the next save, or `manifest repair`,
finishes the job. One that does not describe it belongs to a save that never happened. A manifest that was signed and
describes the checkpoint always counts before a pending one, which anybody may have put there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from manifest.checkpoint.directories import DISTRIBUTED
from manifest.digests import file_blake3
from manifest.document import File, Manifest, parse
from manifest.errors import DocumentError, InputError, NoManifestError, SignatureError, StorageError
from manifest.places import is_special, kind_of, kind_of_mode, storage_errors
from manifest.signing import read_bundle
from manifest.temporaries import remove_leftovers, temporary_directory

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_SHARDS = "__*.distcp"
"""What `torch.distributed.checkpoint` calls the files of its processes."""

_STAGED = ".staged"
"""What a file is called in a temporary directory: hidden there too, whoever looks for checkpoints."""

_UNREADABLE = 256 << 20  # bytes; no sidecar is as large, and reading stops there


@dataclass(frozen=True)
class Sidecars:
    """Paths of the files beside one checkpoint, or in it when it is a directory."""

    checkpoint: Path

    @property
    def manifest(self) -> Path:
        return self._named("manifest.json", "manifest.json")

    @property
    def signature(self) -> Path:
        return self._named("manifest.sig", "model.sig")

    @property
    def pending_manifest(self) -> Path:
        return self._named("manifest.json.pending", "manifest.json.pending")

    @property
    def pending_signature(self) -> Path:
        return self._named("manifest.sig.pending", "model.sig.pending")

    def _named(self, beside: str, inside: str) -> Path:
        if self.checkpoint.is_dir():
            return self.checkpoint / inside
        return self.checkpoint.with_name(f"{self.checkpoint.name}.{beside}")


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


@dataclass(frozen=True)
class SidecarContents:
    """What lies beside a checkpoint, as bytes.

    Attributes:
        manifest: The manifest that counts.
        signature: The signature beside it; of a pending manifest only one that covers it.
        pending: What became of a pending manifest that describes the checkpoint; None when there is none.
    """

    manifest: bytes
    signature: bytes | None
    pending: Pending | None = None

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def require_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The path of an existing regular file or directory.

    Raises:
        InputError: There is none.
    """
    checkpoint = Path(path)
    try:
        mode = checkpoint.stat().st_mode
    except FileNotFoundError:
        raise InputError(f"There is no file {checkpoint}; check the path.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{checkpoint} cannot be read ({reason}); check the path.") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(
            f"{checkpoint} is {kind_of_mode(mode)}, expected a file or a directory; "
            "copy what it gives into a file first."
        )
    return checkpoint


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
            f"write one with `manifest create {name} --model NAME`, "
            "or save the model with `manifest.save`."
        )
    return SidecarContents(manifest, _read(sidecars.signature))


def read_manifest(checkpoint: Path, *, strict: bool = False) -> Manifest:
    """The manifest beside a checkpoint, parsed."""
    contents = read_sidecars(checkpoint)
    return parse(contents.manifest, source=Sidecars(checkpoint).manifest.name, strict=strict)


def recorded_files(checkpoint: Path, manifest: Manifest) -> list[tuple[File, Path]]:
    """The files that a manifest describes, each with its path; a file by itself may have been renamed."""
    files = manifest.checkpoint.files
    if checkpoint.is_dir():
        return [(file, checkpoint / file.path) for file in files]
    others = [(file, checkpoint.with_name(file.path)) for file in files[1:]]
    return [(files[0], checkpoint), *others]


def has_manifest(checkpoint: Path) -> bool:
    """Whether a manifest, published or pending, lies beside a file, or beside the one that a link leads to."""
    return _has_own(_described(checkpoint))


def _described(checkpoint: Path) -> Path:
    """Where the sidecars are: beside a link itself, or else beside what it leads to."""
    return checkpoint.resolve() if checkpoint.is_symlink() and not _has_own(checkpoint) else checkpoint


def _has_own(checkpoint: Path) -> bool:
    sidecars = Sidecars(checkpoint)
    return sidecars.manifest.is_file() or sidecars.pending_manifest.is_file()


_OWN_WORK = threading.local()


@contextlib.contextmanager
def own_work() -> Iterator[None]:
    """Inside, what this thread writes, renames and removes is this package's doing, and no training's."""
    before = at_own_work()
    _OWN_WORK.now = True
    try:
        yield
    finally:
        _OWN_WORK.now = before


def at_own_work() -> bool:
    """Whether this thread is inside of `own_work`."""
    return bool(getattr(_OWN_WORK, "now", False))


@contextlib.contextmanager
def staging(checkpoint: Path) -> Iterator[Path]:
    """A temporary name beside a checkpoint-to-be, whose file is gone afterwards if it was not published.

    What a killed save to the same place has left is removed first. Errors of the file system become one-sentence
    `StorageError`s, also those that libraries wrap in their own.
    """
    with own_work(), storage_errors(checkpoint):
        remove_leftovers(checkpoint.parent, checkpoint.name)
        with temporary_directory(checkpoint) as hidden:
            yield hidden / _STAGED


@contextlib.contextmanager
def sidecars_only(checkpoint: Path) -> Iterator[None]:
    """Inside, only the sidecars of a checkpoint change; errors of the file system become `StorageError`s."""
    with own_work(), storage_errors(checkpoint):
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
    if contents.pending is Pending.USED_OVER_SIGNED and contents.signature is None and not over_signed:
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
            _write_durably(path, data, checkpoint)
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
    _write_durably(sidecars.manifest, manifest, directory)
    if signature is not None:
        _write_durably(sidecars.signature, signature, directory)
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
    for path in (sidecars.signature, sidecars.manifest, sidecars.pending_manifest, sidecars.pending_signature):
        path.unlink(missing_ok=True)


def synchronise(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _pending(sidecars: Sidecars) -> SidecarContents | None:
    """The sidecars that count where a pending manifest describes the checkpoint; None where none does."""
    pending = _read(sidecars.pending_manifest)
    if pending is None or not _describes(pending, sidecars.checkpoint):
        return None
    sha256 = hashlib.sha256(pending).hexdigest()
    published, signature = _read(sidecars.manifest), _read(sidecars.signature)
    if signature is not None and _covers(signature, sha256):  # cut off between the two renames
        return SidecarContents(pending, signature, Pending.USED)
    signed = published is not None and (signature is not None or _names_a_signer(published))
    if published is not None and signed and _describes(published, sidecars.checkpoint):
        return SidecarContents(published, signature, Pending.LEFT)
    own = _read(sidecars.pending_signature)
    covering = own if own is not None and _covers(own, sha256) else None
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
    signature = _read(sidecars.signature)
    if signature is not None and not _covers(signature, manifest_sha256):
        sidecars.signature.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sidecars.pending_manifest.replace(sidecars.manifest)
    _sync_directory(sidecars.manifest.parent)


def _covers(signature: bytes, manifest_sha256: str) -> bool:
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


def _write_durably(path: Path, data: bytes, of: Path) -> None:
    """Write a sidecar of a checkpoint, which is there whole or not at all, and on the disk."""
    with temporary_directory(of, path.parent) as hidden:
        temporary = hidden / _STAGED
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def _mode_of(path: Path) -> int:
    """Permissions of a file that is about to be replaced, or those that a new file would get."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Inside, no other process and no other thread puts checkpoints in place there, where the system can keep that."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

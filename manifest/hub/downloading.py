"""Pulling: what a manifest in a repository names comes down, is held to it, and only then put where it was asked for.

The manifest and its signature are judged before any weights are fetched. All files are of one commit. They are written
into a hidden directory beside the place they go to, and what fails a check never leaves it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath

from manifest import progress as steps
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.checks.target import VerificationTarget
from manifest.checks.trust import check_trust
from manifest.digests import file_blake3
from manifest.errors import DocumentError, InputError, NoManifestError, StorageError
from manifest.escaping import printable, printable_list
from manifest.hub.receiving import receive
from manifest.hub.repository import Commit, Described, commit_of, repository_name
from manifest.progress import Follower, followed
from manifest.schema.document import FILE_NAME, LARGEST, File, Manifest, parse
from manifest.schema.report import Kind, Report, VerificationError
from manifest.schema.rules import finding
from manifest.signing import Trusted
from manifest.signing.trusted import Signers
from manifest.storage.files import synchronise, write_durably
from manifest.storage.places import storage_errors
from manifest.storage.sidecars import MANIFEST_ENDING, MANIFEST_INSIDE
from manifest.storage.suppress_recording import suppress_recording
from manifest.storage.transaction import (
    SidecarContents,
    clear_sidecars,
    publish,
    publish_directory,
    read_sidecars,
    replace_file,
)
from manifest.storage.trust_files import trusted_signers
from manifest.temporaries import is_temporary, remove_leftovers, temporary_directory
from manifest.workflows.verifying import verify

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pulled:
    """A checkpoint that was put in place.

    Attributes:
        path: Where it lies.
        commit: Where it is from.
        report: What was checked before.
    """

    path: Path
    commit: Commit
    report: Report


@followed
def pull(
    repository: str,
    file: str | None = None,
    *,
    to: str | os.PathLike[str] = ".",
    key: Trusted = None,
    full: bool = False,
    force: bool = False,
    progress: Follower = None,
) -> Path:
    """Download a checkpoint with its manifest and signatures, and verify it before it is put in place.

    Nothing but what the manifest names is downloaded, and nothing is put in place that fails. `HF_ENDPOINT` and
    `HF_TOKEN` say where the hub is and who asks, as for `huggingface_hub`.

    Args:
        repository: `OWNER/REPO`, or `OWNER/REPO@REVISION` for a branch, a tag or a commit.
        file: The checkpoint's path in the repository; needed where that holds several with manifests.
        to: The directory that it is put in, under its own name; made where it is not there.
        key: Public key of the signer that is trusted, as for `verify`.
        full: Verify it fully, as `verify(path)` does, and not only as `verify(path, fast=True)`.
        force: Replace files there that are other ones.
        progress: Who follows it, as for `verify`.

    Returns:
        Where the checkpoint lies: a file, or a directory.

    Raises:
        VerificationError: It does not keep its manifest's promise; nothing was put in place, and the report says how.
        InputError: The name or the file cannot be meant, or other files lie there already.
        NoManifestError: There is no manifest for it.
        DocumentError: The manifest is not valid, or names files elsewhere.
        StorageError: It cannot be written there, or there is too little space.
        HubError: The hub cannot be reached, or does not give it.

    Example:
        >>> pulled = manifest.pull("acme/digits", to="pulled", key="release.pub")
        >>> pulled.name, manifest.verify(pulled, key="release.pub").passed
        ('ckpt.pt', True)
    """
    del progress  # `followed` takes it
    return pulled(repository, file, to=Path(to), key=key, full=full, force=force).path


def pulled(repository: str, file: str | None, *, to: Path, key: Trusted, full: bool, force: bool) -> Pulled:
    """What `pull` does, with the report of what was checked."""
    name, at, revision = repository.partition("@")
    name, trusted = repository_name(name), trusted_signers(key)
    if at and not revision:
        raise InputError(f"{printable(repository)!r} names no revision after the @, expected OWNER/REPO@REVISION.")
    if full:
        import_module("manifest.checks.rebuild")  # a library that is missing is told before the download
    steps.begin("reading the manifest")
    commit = commit_of(name, revision or None)
    place = _meant(commit, file)
    target = _target(to, commit, place)
    with _hidden(target) as hidden:
        folder = hidden / target.name  # the report of a whole repository tells this name
        wanted = _judged(commit, place, target, folder, trusted)
        same = _unchanged(wanted, force=force)
        whole = wanted.is_all(same)
        if not whole:
            _download(wanted, folder)
        checked = target if whole else folder / place.path
        report = verify(checked, trust=trusted, fast=not full)
        if not report.passed:
            raise _failed(report, commit, place)
        if not whole:
            _put(wanted, checked, hidden, same)
    return Pulled(target, commit, report.model_copy(update={"path": str(target)}))


@dataclass(frozen=True)
class _Wanted:
    """A checkpoint of a commit, what its manifest says, and where it goes."""

    commit: Commit
    place: Described
    target: Path
    contents: SidecarContents
    manifest: Manifest

    def files_at(self, checkpoint: Path) -> list[tuple[File, Path]]:
        """The files that the manifest describes, each with its path where the checkpoint is at some path."""
        files = self.manifest.checkpoint.files
        if self.place.is_folder:
            return [(file, checkpoint / file.path) for file in files]
        return [(files[0], checkpoint), *((file, checkpoint.with_name(file.path)) for file in files[1:])]

    def sidecars(self) -> dict[Path, bytes | None]:
        """The manifest and the signatures, by the places that they go to; None where there is no such signature."""
        folder = self.target if self.place.is_folder else self.target.parent
        manifest, *signatures = (PurePosixPath(name).name for name in (self.place.manifest, *self.place.signatures))
        held = {manifest: self.contents.manifest, **self.contents.signatures}
        return {folder / name: held.get(name) for name in (manifest, *signatures)}

    def is_all(self, paths: set[Path]) -> bool:
        """Whether some paths are all that belongs to it, and no signature lies there that does not."""
        sidecars = self.sidecars()
        wanted = {path for path, data in sidecars.items() if data is not None}
        wanted |= {path for _, path in self.files_at(self.target)}
        return paths == wanted and not any(os.path.lexists(path) for path in sidecars.keys() - wanted)


def _meant(commit: Commit, file: str | None) -> Described:
    """The checkpoint that somebody means.

    Raises:
        NoManifestError: There is no manifest for it.
        InputError: It is not there, or several are and none is named.
    """
    described = {each.path: each for each in _described(commit)}
    listed = printable_list(path or "." for path in described)
    if file is not None:
        path = "" if file == "." else file.rstrip("/")
        if path in described:
            return described[path]
        if path in commit.files:
            raise NoManifestError(
                f"{commit.repository} has {printable(path, 200)} and no manifest beside it, so it cannot be checked; "
                "ask its owner to push it by `manifest push`."
            )
        there = f"those with manifests are {listed}" if described else "no checkpoint there has a manifest"
        raise InputError(f"{commit.repository} has no {printable(file, 200)!r}; {there}.")
    if not described:
        raise NoManifestError(
            f"{commit.repository} has no checkpoint with a manifest at {commit.sha[:12]}; name another revision as "
            f"{commit.repository}@REVISION, or push one by `manifest push`."
        )
    if len(described) > 1:
        raise InputError(
            f"{commit.repository} has {len(described)} checkpoints with manifests, {listed}; name one of them after "
            "the repository."
        )
    return next(iter(described.values()))


def _described(commit: Commit) -> Iterator[Described]:
    """Every checkpoint with a manifest whose path leads nowhere else."""
    for name in sorted(commit.files):
        folder, _, last = name.rpartition("/")
        path = name.removesuffix(MANIFEST_ENDING)
        if last == MANIFEST_INSIDE and (not folder or _is_plain(folder)):
            yield Described(folder, is_folder=True)
        elif path != name and path in commit.files and _is_plain(path):
            yield Described(path)


def _is_plain(path: str) -> bool:
    return all(re.fullmatch(FILE_NAME, part) and part not in (".", "..") for part in path.split("/"))


def _target(to: Path, commit: Commit, place: Described) -> Path:
    """Where a checkpoint goes: under its own name, or that of a repository which is one.

    Raises:
        InputError: A file lies there where a directory belongs, or the other way round.
    """
    target = to / (place.path or commit.repository).rpartition("/")[2]
    with storage_errors(target):  # a name may be too long to be looked at
        is_no_directory = to.exists() and not to.is_dir()
        is_other = target.exists() and target.is_dir() != place.is_folder
    if is_no_directory:
        raise InputError(f"{to} is no directory, and one is expected; name another by `--to`.")
    if is_other:
        kinds = ("a file", "a directory") if place.is_folder else ("a directory", "a file")
        raise InputError(f"{target} is {kinds[0]}, and {kinds[1]} belongs there; name another directory by `--to`.")
    return target


@contextlib.contextmanager
def _hidden(target: Path) -> Iterator[Path]:
    """A hidden directory for what goes to some place, in its directory, which is made where it is not there.

    Of a directory it is inside, where that is there already: it may be a file system of its own.
    """
    made = [each for each in target.parents if not each.exists()]
    own = target if target.is_dir() else None
    try:
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            for each in (target.parent, own):
                if each is not None:
                    remove_leftovers(each, target.name)
            opened = contextlib.ExitStack()
            hidden = opened.enter_context(temporary_directory(target, own))
        with opened, suppress_recording():
            yield hidden
    except BaseException:
        with contextlib.suppress(OSError):  # somebody put something there meanwhile
            for each in made:
                each.rmdir()
        raise


def _judged(commit: Commit, place: Described, target: Path, folder: Path, trusted: Signers | None) -> _Wanted:
    """Download the manifest and the signature, and check who signed and that the hub lists what is described.

    Raises:
        VerificationError: One of the two is not so.
        DocumentError: It is no manifest, or names files elsewhere.
    """
    with storage_errors(folder):
        for name in (place.manifest, *place.signatures):
            if name in commit.files:
                receive(commit, name, folder, LARGEST)
    checkpoint = folder / place.path
    contents = read_sidecars(checkpoint)
    manifest = parse(contents.manifest, source=printable(place.manifest, 200))
    for file in manifest.checkpoint.files:
        if not _is_plain(file.path):
            raise DocumentError(
                f"{printable(place.manifest, 200)} names the file {printable(file.path)!r}, expected one beside it; "
                "get it from somebody whom you trust."
            )
    subject = VerificationTarget(checkpoint, contents, manifest)
    checks = (
        ("trust", lambda: check_trust(subject, trusted)),
        ("integrity", lambda: _as_listed(commit, place, manifest)),
    )
    report = run_ladder(Kind.VERIFY, checkpoint.name, checks)
    if not report.passed:
        raise _failed(report, commit, place)
    return _Wanted(commit, place, target, contents, manifest)


def _as_listed(commit: Commit, place: Described, manifest: Manifest) -> CheckResult:
    """Whether the hub says of the files what the manifest says; one that does not is not downloaded."""
    findings = []
    for file, path in place.files(manifest):
        listed = commit.files.get(path)
        if listed is None:
            message = f"The file {file.path} is not in {commit.repository}, and the manifest describes it."
            findings.append(finding("F008", message, where=path))
        elif listed.size != file.size:
            message = f"The file at the hub is {listed.size} bytes long, and {file.size} were saved."
            findings.append(finding("I003", message, where=path))
        elif listed.sha256 not in (None, file.sha256):
            message = "The SHA-256 that the hub lists is not that of the file that was saved."
            findings.append(finding("I001", message, where=path))
    reason = "the hub lists other files; nothing was downloaded" if findings else "the hub lists the same files"
    return CheckResult(reason, findings)


def _failed(report: Report, commit: Commit, place: Described) -> VerificationError:
    path = f"{commit.repository}/{place.path}" if place.path else commit.repository
    return VerificationError.of(report.model_copy(update={"path": path}))


def _unchanged(wanted: _Wanted, *, force: bool) -> set[Path]:
    """The places where the very files lie already that go there.

    Raises:
        InputError: Other files lie there, and they are not to be replaced.
    """
    steps.begin("comparing with what is there")
    target = wanted.target
    is_same = {path: _is_same(path, file) for file, path in wanted.files_at(target)}
    is_same |= {path: _has_bytes(path, data) for path, data in wanted.sidecars().items()}
    others = [path for path, same in is_same.items() if not same and os.path.lexists(path)]
    if wanted.place.is_folder and target.is_dir():
        others += [each for each in target.iterdir() if each not in is_same and not is_temporary(each.name)]
    if others and not force:
        raise InputError(
            f"{others[0]} is there already and is another file; name another directory by `--to`, or replace it by "
            "`--force`."
        )
    return {path for path, same in is_same.items() if same}


def _is_same(path: Path, file: File) -> bool:
    return path.is_file() and path.stat().st_size == file.size and file_blake3(path) == file.blake3


def _has_bytes(path: Path, data: bytes | None) -> bool:
    return data is not None and path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _download(wanted: _Wanted, folder: Path) -> None:
    """Download the files that the manifest names.

    Raises:
        StorageError: There is too little space.
    """
    files = wanted.place.files(wanted.manifest)
    total, free = sum(file.size for file, _ in files), shutil.disk_usage(folder).free
    if total > free:
        raise StorageError(
            f"{wanted.target.name} has {total:,} bytes, and {free:,} are free in {wanted.target.parent}; free some "
            "space, or name another directory by `--to`; nothing was downloaded."
        )
    steps.begin("downloading", total)
    with storage_errors(wanted.target):
        for file, path in files:
            receive(wanted.commit, path, folder, file.size)
        shutil.rmtree(folder / ".cache")  # the library's notes


def _put(wanted: _Wanted, checked: Path, hidden: Path, same: set[Path]) -> None:
    """Rename what was verified to its place, the manifest last; files that lie there already stay as they are."""
    steps.begin("putting it in place")
    target, manifest = wanted.target, wanted.contents.manifest
    (_, signature), *others = list(wanted.sidecars().items())[1:]
    paths = [path for _, path in wanted.files_at(checked)]
    goals = [path for _, path in wanted.files_at(target)]
    with storage_errors(target):
        for path in paths:
            synchronise(path)
        if wanted.place.is_folder:
            publish_directory(checked.rename(hidden / "whole"), target, manifest, signature)
            return
        if len(paths) > 1:
            clear_sidecars(target)  # what lies there describes other files from here on
        for path, goal in zip(paths[1:], goals[1:], strict=True):
            if goal not in same:
                replace_file(path, goal)
        publish(checked, target, manifest, signature)
        for path, data in others:
            if data is None:
                path.unlink(missing_ok=True)
            else:
                write_durably(path, data, target)

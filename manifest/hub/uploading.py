"""Pushing: a checkpoint that keeps its manifest's promise goes to a hub with all that belongs to it, in one commit."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from manifest import progress
from manifest.errors import InputError, StorageError
from manifest.escaping import printable
from manifest.hub.receiving import receive
from manifest.hub.repository import Commit, Described, commit_hash, commit_of, hub_api, hub_errors, repository_name
from manifest.rendering.markdown import card as card_section
from manifest.rendering.markdown import with_card
from manifest.schema.document import Manifest, parse
from manifest.schema.report import VerificationError
from manifest.signing import Trusted
from manifest.storage.sidecars import described_checkpoint, recorded_files
from manifest.storage.transaction import SidecarContents, read_sidecars
from manifest.workflows.verifying import verify

_CARD = "README.md"
_LARGEST_CARD = 10 << 20  # bytes

_log = logging.getLogger(__name__)


def push(
    path: str | os.PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    private: bool = False,
    card: bool = True,
    key: Trusted = None,
    message: str | None = None,
) -> str:
    """Push a checkpoint to a hub with its manifest, its signatures and a section of the model card, in one commit.

    First it is verified as `verify(path, fast=True)` does. Where the repository or the branch is not there, it is made.
    `HF_ENDPOINT` and `HF_TOKEN` say where the hub is and who pushes, as for `huggingface_hub`.

    Args:
        path: The checkpoint: a file, the index of a sharded one, or a directory. Only the files that its manifest names
            go up; a directory becomes a folder of the repository.
        repository: `OWNER/REPO`.
        revision: The branch; the default one when None.
        private: Make the repository a private one, where it is made.
        card: Write what is on record into `README.md`, between two marks; the rest of that file stays as it is.
        key: Public key that the signature is checked by before.
        message: Of the commit.

    Returns:
        `OWNER/REPO@COMMIT`, which `pull` takes.

    Raises:
        VerificationError: The checkpoint does not keep its manifest's promise; nothing was pushed.
        InputError: There is no such file, or the repository is public and a private one was asked for.
        NoManifestError: It has no manifest.
        StorageError: It changed while it was pushed; nothing was committed.
        HubError: The hub cannot be reached, or does not take it.

    Example:
        >>> pushed = manifest.push("ckpt.pt", "acme/digits", key="release.pub")
        >>> pushed
        'acme/digits@...'
    """
    name = repository_name(repository)
    checkpoint = described_checkpoint(path)
    report = verify(checkpoint, key=key, fast=True)
    if not report.passed:
        raise VerificationError.of(report)
    contents = read_sidecars(checkpoint)
    manifest = parse(contents.manifest)
    head = _head(name, revision, private=private)
    place = Described(checkpoint.name, checkpoint.is_dir())
    operations = _operations(head, place, checkpoint, contents, manifest)
    if card:
        operations.append(CommitOperationAdd(_CARD, _page(head, card_section(manifest, checkpoint.name))))
    _log.debug("pushing %s: %d files to %s", checkpoint.name, len(operations), name)
    progress.end()  # the library shows how far the upload is
    digests = {name: file.sha256 for file, name in place.files(manifest)}
    sha = _commit(head, operations, digests, revision, message or f"Add {checkpoint.name} with its manifest")
    return f"{name}@{sha}"


def _head(name: str, revision: str | None, *, private: bool) -> Commit:
    """What the branch is at; repository and branch are made where they are not there.

    Raises:
        InputError: The repository is public, and a private one is asked for.
    """
    api = hub_api()
    with hub_errors(name, revision):
        if not api.repo_exists(name):
            api.create_repo(name, private=private or None, exist_ok=True)
            _log.debug("made the repository %s", name)
        elif private and api.model_info(name).private is False:
            raise InputError(f"{name} is public and was there before; make it private on its page, or name another.")
        if revision is not None and not api.revision_exists(name, revision):
            api.create_branch(name, branch=revision, exist_ok=True)
    return commit_of(name, revision)


def _operations(
    head: Commit, place: Described, checkpoint: Path, contents: SidecarContents, manifest: Manifest
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What is done to the files of the repository that belong to a checkpoint."""
    paths = [path for _, path in recorded_files(checkpoint, manifest)]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, str(path.absolute()))
        for (_, name), path in zip(place.files(manifest), paths, strict=True)
    ]
    operations.append(CommitOperationAdd(place.manifest, contents.manifest))
    for name, data in zip_longest(place.signatures, contents.signatures.values()):
        if data is not None:
            operations.append(CommitOperationAdd(name, data))
        elif name in head.files:  # of what was there before, or of a signature that is not here any more
            operations.append(CommitOperationDelete(name))
    return operations


def _page(head: Commit, section: str) -> bytes:
    """The repository's model card with the section in it, or a new one.

    Raises:
        InputError: What is there is no text, or the marks in it are not those of such a section.
    """
    text = ""
    if _CARD in head.files:
        with tempfile.TemporaryDirectory() as folder:
            page = receive(head, _CARD, Path(folder), _LARGEST_CARD).read_bytes()
        try:
            text = with_card(page.decode(), section)
        except ValueError as error:
            raise InputError(
                f"{_CARD} of {head.repository} cannot be a model card ({error}); correct it, or pass `--no-card`."
            ) from None
    return (text or with_card("", section)).encode()


def _commit(
    head: Commit,
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    digests: Mapping[str, str],
    revision: str | None,
    message: str,
) -> str:
    """Upload the large files, hold what went up to the manifest, and commit everything on top of a commit.

    Args:
        head: That commit.
        operations: What is done.
        digests: SHA-256 that files have in the manifest, by their paths in the repository.
        revision: The branch.
        message: Of the new commit.

    Returns:
        The new commit's hash.

    Raises:
        StorageError: Another process wrote into the checkpoint meanwhile.
    """
    api = hub_api()
    additions = [each for each in operations if isinstance(each, CommitOperationAdd)]
    with hub_errors(head.repository, revision):
        # No pattern of the repository's .gitignore may leave out weights whose manifest goes up.
        api.preupload_lfs_files(head.repository, additions, revision=revision, free_memory=False, gitignore_content="")
        uploaded = {each.path_in_repo: each.upload_info.sha256.hex() for each in additions}
    changed = next((name for name, digest in digests.items() if uploaded[name] != digest), None)
    if changed is not None:
        raise StorageError(
            f"{printable(changed)} changed while it was pushed, so nothing was committed; push it again."
        )
    with hub_errors(head.repository, revision):
        done = api.create_commit(
            head.repository, operations, commit_message=message, revision=revision, parent_commit=head.sha
        )
    return commit_hash(done.oid, head.repository)

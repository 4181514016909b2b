"""Lineage: which checkpoint started from which, by the manifests beside them.

Weights are read where something is said of them: to be a parent, and where a key is to say whose they are. No torch is
needed, and nothing in a checkpoint runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from manifest.checkpoint.discovering import discover
from manifest.checks.target import VerificationTarget
from manifest.checks.trust import check_trust
from manifest.errors import ManifestError
from manifest.schema.document import Manifest, parse
from manifest.schema.lineage import Generation, History, Unread, trace_descent
from manifest.schema.report import Outcome, outcome_of
from manifest.signing import Trusted, public_keys
from manifest.storage.described import other_bytes, other_size
from manifest.storage.sidecars import Sidecars, has_manifest, require_checkpoint
from manifest.storage.transaction import read_sidecars

if TYPE_CHECKING:
    from manifest.signing.trusted import Signers


def lineage(
    places: Iterable[str | os.PathLike[str]],
    *,
    key: Trusted = None,
    against: str | os.PathLike[str] | None = None,
) -> History:
    """What the manifests beside some checkpoints say of where they come from.

    A manifest is taken at its word, but for the sizes of its files: whether the weights beside it are those that it
    describes, `verify` tells. With a key, what it signed is read to the last byte.

    Args:
        places: Checkpoints, folders of them, or patterns.
        key: Public key of the signer that is trusted: a file, `file:…` or `env:VARIABLE`.
        against: Where relatives are looked for that no manifest names as parent or child, nor as child of a parent: a
            folder of manifests, or an index that `add_to_index` made. Manifests have to have sketches for that.

    Raises:
        KeyFileError: The key cannot be used.
        InputError: There are too many checkpoints, or there is no such folder or index.
        DocumentError: What is searched is a file and no index.

    Example:
        >>> history = manifest.lineage(["ckpt.pt"])
        >>> [descent.generation.name for descent in history.descents]
        ['ckpt.pt']
    """
    trusted = None if key is None else _signers(key)
    places = list(places)
    named = {Path(place) for place in places}
    unread, unrecorded = [], []
    manifests: dict[str, Manifest] = {}
    generations = []
    for path in dict.fromkeys(map(_of_directory, discover(places))):
        try:
            if path in named or _has_manifest(path):
                generation, manifests[str(path)] = _generation(path, trusted)
                generations.append(generation)
            else:
                unrecorded.append(str(path))
        except ManifestError as error:
            unread.append(Unread(str(path), str(error)))
        except OSError as error:
            unread.append(Unread(str(path), f"It cannot be read ({error.strerror}); check its permissions."))
    descents = trace_descent(generations)
    if against is not None:
        from manifest.kinship.unclaimed import with_kin

        descents, others = with_kin(descents, manifests, Path(against))
        reasons = {each.reason for each in unread}
        unread += [Unread(path, reason) for path, reason in others if reason not in reasons]
    return History(descents, tuple(unread), tuple(unrecorded))


def _signers(key: Trusted) -> Signers:
    from manifest.signing.trusted import Signers

    return Signers.of_keys(public_keys(key))


def _of_directory(path: Path) -> Path:
    """The directory of a checkpoint, where it has the manifest."""
    return path.parent if not _has_manifest(path) and _has_manifest(path.parent) else path


def _has_manifest(path: Path) -> bool:
    try:
        return has_manifest(path)
    except OSError:  # a folder that may not be looked into: reading says so
        return True


def _generation(path: Path, trusted: Signers | None) -> tuple[Generation, Manifest]:
    require_checkpoint(path)
    contents = read_sidecars(path)
    manifest = parse(contents.manifest, source=Sidecars(path).manifest.name)
    architecture = manifest.architecture
    result = check_trust(VerificationTarget(path, contents, manifest), trusted)
    signed = trusted is not None and outcome_of(result.findings) is Outcome.PASS
    problem = (other_bytes if signed else other_size)(path, manifest)
    signature = result.reason
    if signed and problem is not None:
        signature = f"of the manifest alone, which describes another file: {problem}"
    generation = Generation(
        path=str(path),
        name=path.resolve().name,
        weights=(manifest.weights.digest, *(other.weights.digest for other in manifest.others)),
        created=manifest.created,
        model=f"{architecture.family} {architecture.name or architecture.class_name}",
        provenance=manifest.provenance,
        signature=signature,
        trusted=signed and problem is None if trusted is not None else None,
        file="as described" if signed and problem is None else problem,
    )
    return generation, manifest

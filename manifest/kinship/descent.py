"""Whether weights can have started from the parents that their manifest names, by the parents' own manifests.

Only what lies beside a checkpoint is read, and only manifests: a parent is known by the digest of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.kinship.answers import Relation
from manifest.kinship.pairs import answer, paired
from manifest.kinship.subjects import Subject, of_manifest, read_sketches
from manifest.schema.document import Manifest, Parent
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.storage.sidecars import MANIFEST_ENDING

_MOST_PARENTS = 16


def refuted_parents(manifest: Manifest, checkpoint: Path) -> list[Finding]:
    """A finding for each parent on record whose weights have nothing in common with these.

    Args:
        manifest: Of the checkpoint.
        checkpoint: Where it lies; the parents' manifests are looked for in the same folder.
    """
    try:
        child = of_manifest(manifest, printable(checkpoint.name))
    except ManifestError:
        return []  # whoever compares sketches is told of it
    if child is None:
        return []
    return [
        found
        for parent in manifest.provenance.parents[:_MOST_PARENTS]
        for subject in _at_hand(parent, checkpoint)
        for found in _refuted(child, parent, subject)
    ]


def _at_hand(parent: Parent, checkpoint: Path) -> Iterator[Subject]:
    """The weights of a parent, if a manifest that describes them lies in the folder under its name."""
    if parent.weights is None or parent.name != Path(parent.name).name:
        return
    try:
        subject = read_sketches(checkpoint.with_name(f"{parent.name}{MANIFEST_ENDING}"))
    except (ManifestError, ValueError):  # it is not there, is no manifest, or has a name that no file can have
        return
    if subject is not None and subject.weights == parent.weights:
        yield subject


def _refuted(child: Subject, parent: Parent, subject: Subject) -> Iterator[Finding]:
    found = answer(paired(child, subject))
    if found.relation is Relation.UNRELATED:
        message = (
            f"The manifest says that the weights started from {printable(parent.name)}, and they have nothing in "
            f"common with its weights: matrices are alike by {found.likeness:+.3f}, as chance makes them."
        )
        yield finding("I005", message, where="provenance.parents", likeness=found.likeness, sureness=found.sureness)

"""The rung *integrity*: the files are those that the manifest names, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifest import progress
from manifest.checkpoint import Checkpoint
from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget
from manifest.digests import file_blake3
from manifest.schema.name_ranges import shortened
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.schema.vocabulary import component_tensors, role_words
from manifest.storage.sidecars import recorded_files
from manifest.weights.shape_diff import is_optional


def integrity(subject: VerificationTarget) -> CheckResult:
    """Whether the files are byte for byte those that the manifest describes, and if not, which tensors changed."""
    readable = isinstance(subject.stored, Checkpoint)
    findings: list[Finding] = []
    changed: list[str] = []
    total = 0
    progress.expect(sum(record.size for record in subject.manifest.checkpoint.files))
    for record, path in recorded_files(subject.path, subject.manifest):
        if not _is_file(path):
            message = f"The file {record.path} is not there, and the manifest describes it."
            findings.append(finding("F008", message, where=record.path))
            continue
        size = path.stat().st_size
        total += size
        if size != record.size:
            message = f"The file is {size:,} bytes long, and {record.size:,} were saved."
            findings.append(finding("I003", message, where=path.name, size=size, recorded=record.size))
        elif _blake3(subject, path) != record.blake3:
            changed.append(path.name)
    if not findings and not changed:
        subject.intact = True
        words = f"all {total:,} bytes are those that were saved"
        refuted = _refuted_parents(subject)
        return CheckResult(f"{words}; not from the parent on record" if refuted else words, refuted)
    if readable:
        findings += _changed_tensors(subject, findings)
    else:
        findings += [finding("I001", "The bytes are not those that were saved.", where=name) for name in changed]
    return CheckResult("the file was changed", findings)


def _refuted_parents(subject: VerificationTarget) -> list[Finding]:
    """Parents on record that the sketches of the weights refute."""
    if subject.manifest.weights.kinship is None or not subject.manifest.provenance.parents:
        return []
    from manifest.kinship.descent import refuted_parents  # imports numpy

    return refuted_parents(subject.manifest, subject.path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long to be one
        return False


def _blake3(subject: VerificationTarget, path: Path) -> str:
    """Digest of one of the files, as it was opened where it was."""
    stored = subject.stored
    if isinstance(stored, Checkpoint):
        index = next((index for index, file in enumerate(stored.files) if file.name == path.name), None)
        if index is not None:
            return stored.blake3(index)
    return file_blake3(path)


def _changed_tensors(subject: VerificationTarget, already: Sequence[Finding]) -> list[Finding]:
    """Which tensors of a changed file have other values, grouped by component."""
    stored = subject.stored
    assert isinstance(stored, Checkpoint)
    recorded = {tensor.name: tensor.digest for tensor in subject.manifest.weights.tensors}
    changed = [
        name for name in recorded if name in stored.tensors and stored.digest(stored.tensors[name]) != recorded[name]
    ]
    shared = recorded.keys() & stored.tensors.keys()
    if not shared or len(changed) == len(shared) > 1:
        return [
            finding("I004", "None of the tensors has the values that the manifest records.", where=subject.path.name)
        ]
    findings = []
    for part in subject.manifest.components:
        members = component_tensors(part.prefixes, changed)
        if members:
            words = role_words(part.role)
            message = f"In the {words}, {len(members)} of {part.present} tensors changed: {', '.join(members[:3])}"
            message += f" and {len(members) - 3} more." if len(members) > 3 else "."
            findings.append(finding("I002", message, where=part.role, tensors=members[:50]))
    if added := [name for name in stored.tensors if name not in recorded and not is_optional(name)]:
        message = f"{shortened(added)} in the file and not in the manifest."
        findings.append(finding("I002", message, where=subject.path.name, tensors=added[:50]))
    if gone := [name for name in recorded if name not in stored.tensors]:
        message = f"{shortened(gone)} in the manifest and not in the file."
        findings.append(finding("I002", message, where=subject.path.name, tensors=gone[:50]))
    if not findings and not already:
        message = "Bytes around the tensors changed; every tensor has the values that were saved."
        findings.append(finding("I001", message, where=subject.path.name))
    return findings

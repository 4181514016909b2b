"""The rung *format*: the container can be read, and holds the tensors that the manifest lists."""

from __future__ import annotations

import hashlib

from manifest.checkpoint import Checkpoint
from manifest.checks.consistency import contradictions, departures
from manifest.checks.ladder import CheckResult
from manifest.checks.safety import safety_findings
from manifest.checks.target import VerificationTarget
from manifest.errors import CheckpointError
from manifest.escaping import printable
from manifest.golden.plausible import implausibilities
from manifest.schema.document import Manifest
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.storage.sidecars import recorded_files
from manifest.weights.shape_diff import is_optional


def _format(subject: VerificationTarget, code: Severity, thorough: bool) -> CheckResult:
    findings = [_inconsistent(problem) for problem in contradictions(subject.manifest)]
    records = [*subject.manifest.golden, *(record for other in subject.manifest.others for record in other.golden)]
    findings += [
        finding("G008", f"{printable(text[0].upper() + text[1:], 400)}.", where=printable(f"golden {record.probe}"))
        for record in records
        for text in implausibilities(record)
    ]
    stored = subject.stored
    if isinstance(stored, CheckpointError):
        return CheckResult(
            "the container cannot be read", [*findings, finding(stored.rule, str(stored), where=subject.path.name)]
        )
    record = subject.manifest.checkpoint
    if stored.container != record.container:
        message = f"The container is {stored.container}, and the manifest describes a {record.container}."
        findings.append(finding("F005", message, where=subject.path.name))
    if subject.intact:
        findings += _mislisted(subject.manifest, stored)
        findings += [_inconsistent(problem) for problem in departures(subject.manifest, stored, first=subject.first)]
        if thorough:
            findings += [_inconsistent(problem) for problem in _other_digests(subject, stored)]
    findings += safety_findings(stored, known=code, unknown=Severity.WARNING)
    return CheckResult(f"well-formed {stored.container}, read without running any of it", findings)


def _other_digests(subject: VerificationTarget, stored: Checkpoint) -> list[str]:
    """Digests that the BLAKE3 of an intact file does not show: its SHA-256, and those of its tensors."""
    wrong = []
    for record, path in recorded_files(subject.path, subject.manifest):
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                wrong.append(f"the SHA-256 of {record.path!r} is not that of the file, whose BLAKE3 is")
    for tensor in subject.manifest.weights.tensors:
        held = stored.tensors.get(tensor.name)
        if held is not None and stored.digest(held) != tensor.digest:
            wrong.append(f"the digest of tensor {tensor.name!r} is not that of its values")
            break
    return wrong


def _inconsistent(problem: str) -> Finding:
    return finding("F006", f"{printable(problem[0].upper() + problem[1:], 400)}.")


def _listing(subject: VerificationTarget) -> CheckResult:
    """Whether the file holds what the manifest lists of another of its models."""
    if not isinstance(subject.stored, Checkpoint):
        return CheckResult("the container cannot be read", skipped=True)
    state = subject.manifest.checkpoint.state.path
    if subject.stored.state_path != tuple(state):
        message = f"The manifest describes weights under '{printable('.'.join(state))}', and the file holds none there."
        return CheckResult("not there", [finding("F006", message)])
    listed = f"{len(subject.manifest.weights.tensors):,} tensors"
    return CheckResult(listed, _mislisted(subject.manifest, subject.stored) if subject.intact else [])


def _mislisted(manifest: Manifest, stored: Checkpoint) -> list[Finding]:
    """Whether an intact file holds other tensors than the manifest lists."""
    listed = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in manifest.weights.tensors}
    held = {
        name: (tensor.dtype, tensor.shape)
        for name, tensor in stored.tensors.items()
        if name in listed or not is_optional(name)  # tables of an older version are no weights
    }
    wrong = sorted(name for name in listed.keys() | held.keys() if listed.get(name) != held.get(name))
    if not wrong:
        return []
    return [finding("F006", f"The manifest lists other tensors than the file holds, {wrong[0]} first.", where=wrong[0])]

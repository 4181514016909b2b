"""Verifying: the ladder of checks, from who signed a checkpoint to whether it still says the same thing.

Every rung passes, warns, fails or is skipped with its reason, and a failed rung does not hide the others. The first
four need no torch; the rest are in `rebuilding`, which is imported only when they are climbed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifest.checkpoint import Checkpoint
from manifest.checkpoint.escaping import printable
from manifest.components import component_findings, reassess
from manifest.consistency import contradictions, departures
from manifest.digests import file_blake3
from manifest.document import Manifest, Status, component_tensors, role_words, training_words
from manifest.dotted_names import shortened
from manifest.errors import CheckpointError
from manifest.findings import ComponentVerdict, Finding, Report, Severity, finding
from manifest.golden.plausible import implausibilities
from manifest.grants import granted
from manifest.policy import RUNG, Policy, floor_findings, hold, read_policy
from manifest.safety import safety_findings
from manifest.sidecars import recorded_files
from manifest.signing import Trusted, public_keys
from manifest.workflows.climbing import Climbed
from manifest.workflows.subject import Check, Subject, climb, joined, open_subject
from manifest.workflows.trusting import trust


def verify(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    key: Trusted = None,
    fast: bool = False,
    allow: Sequence[str] = (),
    probes: Sequence[Any] = (),
    policy: str | os.PathLike[str] | Policy | None = None,
) -> Report:
    """Hold a checkpoint to its manifest.

    Args:
        path: The checkpoint, by its path or open already (then it is closed afterwards); its manifest and signature
            lie beside it.
        key: Public key of the signer that is trusted: a file, `file:…` or `env:VARIABLE`. Of several, any of whom may
            have signed, a file of all, or a sequence.
        fast: Stop before the rungs that need torch.
        allow: Modules of your own that may be imported to rebuild the model, `["mypkg"]` for `mypkg` and all inside it.
        probes: Probes of your own that it was saved with: `manifest.Probe(…)`, or directories.
        policy: What a release demands beyond the manifest's promise: a YAML file.

    Returns:
        Every rung with its outcome, reason, time and findings; `report.exit_code` is 0 when none failed.

    Raises:
        InputError: There is no such file.
        NoManifestError: It has no manifest.
        DocumentError: Its manifest is not valid.
        KeyFileError: The key cannot be used.
    """
    demanded = policy if isinstance(policy, Policy) or policy is None else read_policy(policy)
    subject = open_subject(path)
    try:
        with granted(allow):
            rungs = static_rungs(key, thorough=not fast) + (skipped_rungs() if fast else _dynamic_rungs(probes))
            floors: list[tuple[str, Check]] = [] if demanded is None else [(RUNG, _floors(demanded))]
            report = climb(subject, rungs + floors)
            models = {"": report}
            for other in subject.others():
                checks: list[tuple[str, Check]] = [("format", _listing), ("completeness", _completeness)]
                checks += [] if fast else [rung for rung in _dynamic_rungs(probes) if rung[0] != "environment"]
                state = printable(".".join(other.manifest.checkpoint.state.path))
                models[state] = climb(other, checks + floors)
                report = joined(report, models[state], state)
            return hold(report, demanded, subject.path, models=models)
    finally:
        subject.close()


def static_rungs(key: Trusted, *, code: Severity = Severity.ERROR, thorough: bool = False) -> list[tuple[str, Check]]:
    """Trust, integrity, format and completeness: no torch.

    Args:
        key: Public key of the signer that is trusted.
        code: How severe it is that `torch.load` would run code out of the file.
        thorough: Read the file again, for the digests that the BLAKE3 of the whole does not show.

    Raises:
        KeyFileError: The key cannot be used.
    """
    trusted = public_keys(key)
    return [
        ("trust", lambda subject: trust(subject, trusted)),
        ("integrity", integrity),
        ("format", lambda subject: _format(subject, code, thorough)),
        ("completeness", _completeness),
    ]


def skipped_rungs() -> list[tuple[str, Check]]:
    """The rungs above, when only a fast answer is wanted."""
    skipped = Climbed("not asked for: --fast stops before torch", skipped=True)
    return [(name, lambda subject: skipped) for name in ("architecture", "environment", "golden")]  # noqa: ARG005


def _dynamic_rungs(probes: Sequence[Any]) -> list[tuple[str, Check]]:
    from manifest.workflows.probes import as_probe
    from manifest.workflows.rebuilding import rungs

    return rungs([as_probe(probe) for probe in probes])


def _floors(policy: Policy) -> Check:
    """The floors that a manifest records, held to what a policy demands of them."""
    return lambda subject: Climbed("", floor_findings(policy.golden, subject.manifest.golden))


def integrity(subject: Subject) -> Climbed:
    """Whether the files are byte for byte those that the manifest describes, and if not, which tensors changed."""
    readable = isinstance(subject.stored, Checkpoint)
    findings: list[Finding] = []
    changed: list[str] = []
    total = 0
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
        return Climbed(f"all {total:,} bytes are those that were saved")
    if readable:
        findings += _changed_tensors(subject, findings)
    else:
        findings += [finding("I001", "The bytes are not those that were saved.", where=name) for name in changed]
    return Climbed("the file was changed", findings)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long to be one
        return False


def _blake3(subject: Subject, path: Path) -> str:
    """Digest of one of the files, as it was opened where it was."""
    stored = subject.stored
    if isinstance(stored, Checkpoint):
        index = next((index for index, file in enumerate(stored.files) if file.name == path.name), None)
        if index is not None:
            return stored.blake3(index)
    return file_blake3(path)


def _changed_tensors(subject: Subject, already: Sequence[Finding]) -> list[Finding]:
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
    if added := [name for name in stored.tensors if name not in recorded]:
        message = f"{shortened(added)} in the file and not in the manifest."
        findings.append(finding("I002", message, where=subject.path.name, tensors=added[:50]))
    if gone := [name for name in recorded if name not in stored.tensors]:
        message = f"{shortened(gone)} in the manifest and not in the file."
        findings.append(finding("I002", message, where=subject.path.name, tensors=gone[:50]))
    if not findings and not already:
        message = "Bytes around the tensors changed; every tensor has the values that were saved."
        findings.append(finding("I001", message, where=subject.path.name))
    return findings


def _format(subject: Subject, code: Severity, thorough: bool) -> Climbed:
    findings = [_inconsistent(problem) for problem in contradictions(subject.manifest)]
    records = [*subject.manifest.golden, *(record for other in subject.manifest.others for record in other.golden)]
    findings += [
        finding("G008", f"{printable(text[0].upper() + text[1:], 400)}.", where=printable(f"golden {record.probe}"))
        for record in records
        for text in implausibilities(record)
    ]
    stored = subject.stored
    if isinstance(stored, CheckpointError):
        return Climbed(
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
    return Climbed(f"well-formed {stored.container}, read without running any of it", findings)


def _other_digests(subject: Subject, stored: Checkpoint) -> list[str]:
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


def _listing(subject: Subject) -> Climbed:
    """Whether the file holds what the manifest lists of another of its models."""
    if not isinstance(subject.stored, Checkpoint):
        return Climbed("the container cannot be read", skipped=True)
    state = subject.manifest.checkpoint.state.path
    if subject.stored.state_path != tuple(state):
        message = f"The manifest describes weights under '{printable('.'.join(state))}', and the file holds none there."
        return Climbed("not there", [finding("F006", message)])
    listed = f"{len(subject.manifest.weights.tensors):,} tensors"
    return Climbed(listed, _mislisted(subject.manifest, subject.stored) if subject.intact else [])


def _mislisted(manifest: Manifest, stored: Checkpoint) -> list[Finding]:
    """Whether an intact file holds other tensors than the manifest lists."""
    listed = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in manifest.weights.tensors}
    held = {name: (tensor.dtype, tensor.shape) for name, tensor in stored.tensors.items()}
    wrong = sorted(name for name in listed.keys() | held.keys() if listed.get(name) != held.get(name))
    if not wrong:
        return []
    return [finding("F006", f"The manifest lists other tensors than the file holds, {wrong[0]} first.", where=wrong[0])]


def _completeness(subject: Subject) -> Climbed:
    stored = subject.stored
    if isinstance(stored, CheckpointError):
        return Climbed("the container cannot be read", skipped=True)
    expected = [tensor.name for tensor in subject.manifest.weights.tensors]
    components = reassess(subject.manifest.components, expected, stored)
    subject.components = [
        ComponentVerdict(role=part.role, status=part.status, training=part.training, by_design=part.by_design)
        for part in components
    ]
    findings = component_findings(components, subject.path.name)
    whole = sum(part.status is Status.COMPLETE for part in components)
    reason = f"{whole} of {len(components)} components complete" if components else "the manifest names no components"
    there = [(part.role, part.training) for part in components if part.status is not Status.ABSENT]
    reason += f"; {training_words(there)}" if there else ""
    if by_design := [role_words(part.role) for part in components if part.by_design]:
        reason += f"; by design without a trained {', '.join(by_design)}"
    return Climbed(reason, findings)

"""The rung *completeness*: the components are there, and trained.

Values are read for that, unless a trusted signature covers the manifest, the bytes are those that it names, and only a
fast answer is wanted: then what was found at the save holds.
"""

from __future__ import annotations

from manifest.checks.components import component_findings, reassess
from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget
from manifest.errors import CheckpointError
from manifest.schema.report import ComponentVerdict
from manifest.schema.vocabulary import Status, role_words, training_words


def _completeness(subject: VerificationTarget, thorough: bool) -> CheckResult:
    stored = subject.stored
    if isinstance(stored, CheckpointError):
        return CheckResult("the container cannot be read", skipped=True)
    expected = [tensor.name for tensor in subject.manifest.weights.tensors]
    as_signed = subject.signed and subject.intact and not thorough
    components = reassess(subject.manifest.components, expected, stored, numbers=not as_signed)
    subject.components = [
        ComponentVerdict(role=part.role, status=part.status, training=part.training, by_design=part.by_design)
        for part in components
    ]
    findings = component_findings(components, subject.path.name)
    whole = sum(part.status is Status.COMPLETE for part in components)
    reason = f"{whole} of {len(components)} components complete" if components else "the manifest names no components"
    there = [(part.role, part.training) for part in components if part.status is not Status.ABSENT]
    if there:
        reason += f"; {training_words(there)}" + (", as the signer recorded" if as_signed else "")
    if by_design := [role_words(part.role) for part in components if part.by_design]:
        reason += f"; by design without a trained {', '.join(by_design)}"
    return CheckResult(reason, findings)

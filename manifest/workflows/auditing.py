"""Auditing: what a checkpoint without a manifest is, and whether loading it would run code."""

from __future__ import annotations

import os
import time
from pathlib import Path

from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.checkpoint.escaping import printable
from manifest.errors import CheckpointError
from manifest.findings import Finding, Kind, Report, Rung, Severity, finding, outcome_of
from manifest.policy import Policy, hold, read_policy
from manifest.safety import Safety, safety_findings, safety_of


def audit(path: str | os.PathLike[str], *, policy: str | os.PathLike[str] | Policy | None = None) -> Report:
    """Read a checkpoint statically: torch is not imported, and nothing in the file is run.

    Args:
        path: The checkpoint.
        policy: What is demanded of it: a YAML file.

    Returns:
        A report whose `safety` is one of three: `safe`, `unsafe`, or `unreadable`.

    Raises:
        InputError: There is no such file, or the policy is none.
    """
    demanded = policy if isinstance(policy, Policy) or policy is None else read_policy(policy)
    return hold(_audited(Path(path)), demanded, path)


def _audited(path: Path) -> Report:
    started = time.perf_counter()
    try:
        with open_checkpoint(path) as stored:
            report = Report(kind=Kind.AUDIT, subject=path.name, path=str(path), safety=safety_of(stored))
            report.container = stored.container
            findings = [*_damaged(stored), *_unlisted(stored), *safety_findings(stored)]
            reason = f"well-formed {stored.container}, read without running any of it: {_weights(stored)}"
    except CheckpointError as error:
        report = Report(kind=Kind.AUDIT, subject=path.name, path=str(path), safety=Safety.UNREADABLE)
        findings = [finding(error.rule, str(error), where=printable(path.name))]
        reason = "cannot be read, so nothing is known of it"
    seconds = round(time.perf_counter() - started, 4)
    outcome = outcome_of(findings)
    report.rungs.append(Rung(name="format", outcome=outcome, reason=reason, seconds=seconds, findings=findings))
    return report


def _weights(stored: Checkpoint) -> str:
    place = f" under {printable('.'.join(stored.state_path))}" if stored.state_path else ""
    others = [".".join(candidate.path) or "the top" for candidate in stored.candidates]
    others.remove(".".join(stored.state_path) or "the top")
    also = f", also {printable(', '.join(others), 120)}" if others else ""
    return f"{len(stored.tensors):,} tensors{place}{also}"


def _damaged(stored: Checkpoint) -> list[Finding]:
    names = stored.damaged_records()
    if not names:
        return []
    more = f" and {len(names) - 1} more do" if len(names) > 1 else " does"
    message = f"Record {printable(names[0])}{more} not have the checksum it was written with: its bytes have changed."
    return [finding("F002", message, where=printable(names[0]), records=[printable(name) for name in names[:50]])]


def _unlisted(stored: Checkpoint) -> list[Finding]:
    return [
        finding(
            "F004",
            f"Tensor {printable(name)} is {kind}, whose values cannot be listed.",
            where=printable(name),
            severity=Severity.WARNING,
            remedy="Save it as a plain tensor if it belongs to the weights.",
        )
        for name, kind in list(stored.unlisted.items())[:10]
    ]

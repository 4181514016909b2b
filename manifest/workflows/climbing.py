"""The ladder itself: rungs that are climbed one after the other, each with its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from manifest.findings import Finding, Kind, Outcome, Report, Rung, outcome_of


@dataclass(frozen=True)
class Climbed:
    """What one rung found.

    Attributes:
        reason: One clause for a person: what was checked, or why it was not.
        findings: What is wrong.
        skipped: Whether nothing could be checked.
    """

    reason: str
    findings: list[Finding] = field(default_factory=list)
    skipped: bool = False


def ascend(kind: Kind, name: str, rungs: Iterable[tuple[str, Callable[[], Climbed]]]) -> Report:
    """Climb some rungs with whatever it is, timing each."""
    report = Report(kind=kind, subject=name)
    for rung, check in rungs:
        started = time.perf_counter()
        climbed = check()
        outcome = Outcome.SKIP if climbed.skipped else outcome_of(climbed.findings)
        report.rungs.append(
            Rung(
                name=rung,
                outcome=outcome,
                reason=climbed.reason,
                seconds=round(time.perf_counter() - started, 4),
                findings=climbed.findings,
            )
        )
    return report

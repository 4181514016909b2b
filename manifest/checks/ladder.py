"""The ladder itself: rungs that are climbed one after the other, each with its time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from manifest import progress
from manifest.schema.report import Finding, Kind, Outcome, Report, Rung, outcome_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """What one rung found.

    Attributes:
        reason: One clause for a person: what was checked, or why it was not.
        findings: What is wrong.
        skipped: Whether nothing could be checked.
    """

    reason: str
    findings: list[Finding] = field(default_factory=list)
    skipped: bool = False


def run_ladder(kind: Kind, name: str, rungs: Iterable[tuple[str, Callable[[], CheckResult]]]) -> Report:
    """Climb some rungs with whatever it is, timing each."""
    report = Report(kind=kind, subject=name)
    for rung, check in rungs:
        started = time.perf_counter()
        progress.begin(rung)
        result = check()
        outcome = Outcome.SKIP if result.skipped else outcome_of(result.findings)
        _log.debug("%s: %s %s in %.2f s (%s)", name, rung, outcome, time.perf_counter() - started, result.reason)
        report.rungs.append(
            Rung(
                name=rung,
                outcome=outcome,
                reason=result.reason,
                seconds=round(time.perf_counter() - started, 4),
                findings=result.findings,
            )
        )
    progress.end()
    return report


def merge_reports(report: Report, other: Report, state: str) -> Report:
    """A report with what was found out about another model of the same checkpoint.

    Args:
        report: Of the checkpoint.
        other: Of the other model; its rungs are some of the report's.
        state: Where its weights are, by which its findings are told from the others'.
    """
    found = {rung.name: rung for rung in other.rungs}
    rungs = []
    for rung in report.rungs:
        if (also := found.get(rung.name)) is not None:
            findings = [
                each.model_copy(update={"where": f"{state}: {each.where}" if each.where else state})
                for each in also.findings
            ]
            update = {
                "outcome": max(rung.outcome, also.outcome, key=_WORSE.index),
                "reason": f"{rung.reason}; {state}: {also.reason}",
                "seconds": rung.seconds + also.seconds,
                "findings": [*rung.findings, *findings],
            }
            rung = rung.model_copy(update=update)
        rungs.append(rung)
    return report.model_copy(update={"rungs": rungs})


_WORSE = (Outcome.SKIP, Outcome.PASS, Outcome.WARN, Outcome.FAIL)

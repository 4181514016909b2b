"""What checking ends in: findings, rungs and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from manifest.errors import ManifestError
from manifest.escaping import printable
from manifest.schema.shown import Shown
from manifest.schema.vocabulary import Status, Training


class Severity(StrEnum):
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Outcome(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


class Finding(BaseModel):
    """One thing a check found."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    rule: str
    name: str
    severity: Severity
    message: str = Field(description="One sentence: what was found, and what was expected.")
    where: str | None = Field(default=None, description="A file, tensor, component or field.")
    evidence: dict[str, Any] = Field(default_factory=dict, description="The numbers behind the message.")
    remedy: str
    waived: str | None = Field(
        default=None, description="Why a policy waives it; it then stays on record and decides nothing."
    )


class ComponentVerdict(BaseModel):
    """Whether one component of the model is there, and whether it was ever trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    role: str
    status: Status
    training: Training
    by_design: bool = Field(default=False, description="Whether being absent or untrained was declared.")


class Rung(BaseModel):
    """One rung of the ladder: its outcome, why, and how long it took."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    name: str
    outcome: Outcome
    reason: str
    seconds: float = Field(ge=0)
    findings: list[Finding] = Field(default_factory=list)


class Kind(StrEnum):
    """What a report answers."""

    VERIFY = "verify"
    AUDIT = "audit"
    COMPARE = "compare"
    DIAGNOSE = "diagnose"
    DIFF = "diff"
    DOCTOR = "doctor"


class Report(Shown):
    """What one command found."""

    model_config = ConfigDict(extra="forbid", defer_build=True)

    schema_version: str = "report/v1"
    kind: Kind = Kind.VERIFY
    subject: str = Field(description="File name of the checkpoint, without its directory.")
    safety: str | None = Field(
        default=None, description="Whether loading would run code, after an audit: `safe`, `unsafe` or `unreadable`."
    )
    path: str | None = Field(default=None, description="Where the checkpoint lies, as it was named to the command.")
    container: str | None = Field(default=None, description="Its byte format, when it could be read.")
    components: list[ComponentVerdict] = Field(default_factory=list)
    rungs: list[Rung] = Field(default_factory=list)
    error: str | None = Field(
        default=None, description="Why it could not be checked, in one sentence; null where it was."
    )

    @property
    def in_short(self) -> str:
        """What was checked, and how it ended."""
        ends = {0: "passes", 1: "fails", 2: "could not be checked"}
        failed = ", ".join(printable(rung.name) for rung in self.rungs if rung.outcome is Outcome.FAIL)
        return f"{self.kind}: {printable(self.subject)} {ends[self.exit_code]}" + (f": {failed}" if failed else "")

    def findings(self) -> Iterator[Finding]:
        for rung in self.rungs:
            yield from rung.findings

    @property
    def waived(self) -> int:
        """How many findings a policy waives that would have failed or warned."""
        return sum(item.waived is not None and item.severity is not Severity.NOTE for item in self.findings())

    @property
    def passed(self) -> bool:
        return self.error is None and all(rung.outcome is not Outcome.FAIL for rung in self.rungs)

    @property
    def exit_code(self) -> int:
        """0 when every demanded check passed, 1 when one did not, 2 when it could not be checked."""
        if self.error is not None:
            return 2
        if self.passed:
            return 0
        return 2 if self.undecided else 1

    @property
    def undecided(self) -> bool:
        """Whether nothing is wrong that was found, and not everything could be told here."""
        errors = [item for item in self.findings() if item.severity is Severity.ERROR and item.waived is None]
        return bool(errors) and all(item.rule in UNDECIDED for item in errors)


def outcome_of(findings: list[Finding]) -> Outcome:
    """The worst of some findings that nobody waived, as the outcome of their rung."""
    severities = {item.severity for item in findings if item.waived is None}
    if Severity.ERROR in severities:
        return Outcome.FAIL
    return Outcome.WARN if Severity.WARNING in severities else Outcome.PASS


CANNOT_TELL = "G007"
"""The rule under which a check says that this machine cannot tell."""
LIBRARY_MISSING = "A008"
"""The rule under which a check says that it would need a library that is not installed."""
UNDECIDED = frozenset({CANNOT_TELL, LIBRARY_MISSING})
"""Rules of which a finding says that something could not be checked, and not that it is wrong."""


class VerificationError(ManifestError):
    """A checkpoint that does not keep its manifest's promise.

    Attributes:
        report: Every rung that was climbed, with its findings.
    """

    exit_code = 1

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    @classmethod
    def of(cls, report: Report) -> VerificationError:
        """The error of a report that failed, which tells its first failure."""
        failed = next(rung for rung in report.rungs if rung.outcome is Outcome.FAIL)
        worst = next(item for item in failed.findings if item.severity is Severity.ERROR)
        what = f"{report.subject} fails its {failed.name} check ({worst.rule} {worst.name})"
        return cls(f"{what}: {worst.message} {worst.remedy}", report)

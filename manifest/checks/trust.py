"""The rung of trust: who signed, is it what lies here, and is it somebody whom the caller trusts?

Each signature beside a checkpoint is judged by itself: is it well-formed, does it cover the manifest and the files, who
made it, and does that signer count for this checkpoint today? The threshold is met by distinct keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from manifest.checkpoint import Checkpoint
from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget
from manifest.digests import file_sha256
from manifest.errors import InputError, SignatureError
from manifest.escaping import printable, printable_list
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.signing import Statement, read_bundle, verify_bundle
from manifest.storage.sidecars import MANIFEST_INSIDE, Pending, Sidecars, pending_words

if TYPE_CHECKING:
    from manifest.signing.trusted import Signer, Signers

_OVER_SIGNED = (
    "If a save of yours was cut off, finish and sign it: `manifest repair CKPT --key release.key`; otherwise remove it."
)

_DIGEST = re.compile("blake3:[0-9a-f]{64}")
_MOST_LISTED = 10_000
"""Files of a directory that are looked at for what is not signed."""


@dataclass(frozen=True)
class Expectation:
    """Which checkpoint of several genuine ones is meant, so that an older one is not taken for it.

    Attributes:
        not_before: The first day, in UTC, on which its manifest may have been written.
        weights: The digest of its weights, `blake3:` and 64 hexadecimal digits.
    """

    not_before: date | None = None
    weights: str | None = None


def expectation(not_before: date | str | None, weights: str | None) -> Expectation | None:
    """What a caller expects, read; None where nothing is.

    Raises:
        InputError: One of them is no day, or no digest.
    """
    if isinstance(not_before, str):
        text = not_before
        try:
            not_before = date.fromisoformat(text)
        except ValueError:
            raise InputError(f"There is no day '{printable(text)}', expected one such as 2026-11-01.") from None
    if weights is not None and not _DIGEST.fullmatch(weights):
        raise InputError(
            f"The expected weights are '{printable(weights)}', expected `blake3:` and 64 hexadecimal digits, as in "
            "`weights.digest` of `manifest show CKPT --format json`."
        )
    return None if not_before is None and weights is None else Expectation(not_before, weights)


def check_trust(
    subject: VerificationTarget, trusted: Signers | None, expected: Expectation | None = None
) -> CheckResult:
    """Who signed a checkpoint's manifest, as far as trusted signers tell, and whether it is the one that is meant.

    Args:
        subject: The checkpoint; its bytes are not read, but for `expected` weights that nobody vouches for.
        trusted: Whose signatures count, and how many are needed; None to say what there is.
        expected: Which checkpoint is meant.
    """
    result = _trust(subject, trusted)
    if expected is not None and (others := list(_unexpected(subject, expected))):
        subject.signed = False
        result = CheckResult(f"{result.reason}; not the checkpoint that is meant", [*result.findings, *others])
    if trusted is not None and trusted.source is not None:
        result = replace(result, reason=f"{result.reason}; trust file {printable(str(trusted.source), 300)}")
    return replace(result, findings=[*result.findings, *_pending(subject)])


def _trust(subject: VerificationTarget, trusted: Signers | None) -> CheckResult:
    if not subject.contents.signatures:
        return _unsigned(subject, trusted)
    if trusted is None:
        return _untrusted(subject)
    today = datetime.now(UTC).date()
    judged = [_judge(subject, name, data, trusted, today) for name, data in subject.contents.signatures.items()]
    counted = {each.signer.public.hint: each.signer for each in judged if each.counts and each.signer is not None}
    enough = len(counted) >= trusted.threshold
    findings = [item for each in judged for item in each.findings(enough=enough)]
    wrong = any(item.severity is Severity.ERROR for item in findings)
    if not enough and (counted or not wrong):
        signed = f": {_titles(counted.values())}" if counted else ""
        message = f"{len(counted)} of {trusted.threshold} signers that are demanded have signed{signed}."
        findings.append(finding("T015", message, where=Sidecars(subject.path).signature.name))
    if not enough or wrong:
        return CheckResult(_not_holding(findings) if wrong and len(judged) == 1 else "not signed as demanded", findings)
    subject.signed = True
    return CheckResult(_signed_by(list(counted.values()), trusted), [*findings, *_not_signed(subject, judged)])


def _not_holding(findings: list[Finding]) -> str:
    of_another = all(item.rule in ("T006", "T010") for item in findings)
    return "the signature is of something else" if of_another else "the signature does not hold"


def _signed_by(counted: list[Signer], trusted: Signers) -> str:
    if trusted.threshold > 1 or len(counted) > 1:
        return f"signed by the trusted {_titles(counted)}, {trusted.threshold} demanded"
    among = f", one of {len(trusted.each)} trusted keys" if trusted.source is None and len(trusted.each) > 1 else ""
    return f"signed by the trusted {counted[0].title}{among}"


def _titles(signers: Iterable[Signer]) -> str:
    return ", ".join(signer.title for signer in signers)


@dataclass(frozen=True)
class _Judged:
    """One signature, and what is wrong with it.

    Attributes:
        name: Its file.
        statement: What it says; None where it cannot be read or holds under no trusted key.
        signer: Who made it, of those that are trusted.
        faults: What is wrong with it whoever made it.
        objection: Why it does not count although nothing is wrong with it: nobody trusts the signer, or not for this.
        why: The same as a clause about the signature.
    """

    name: str
    statement: Statement | None = None
    signer: Signer | None = None
    faults: list[Finding] = field(default_factory=list)
    objection: Finding | None = None
    why: str = ""

    @property
    def counts(self) -> bool:
        return self.signer is not None and not self.faults and self.objection is None

    def findings(self, *, enough: bool) -> list[Finding]:
        """What there is to say of it, and whether it does not count is no fault where others are enough."""
        if self.objection is None:
            return self.faults
        note = finding("T016", f"A signature was not counted: {self.why}.", where=self.name)
        return [*self.faults, note if enough else self.objection]


def _judge(subject: VerificationTarget, name: str, data: bytes, trusted: Signers, today: date) -> _Judged:
    try:
        statement = verify_bundle(data, trusted.keys)
    except SignatureError as error:
        found = finding(error.rule, str(error), where=name)
        if error.rule == "T003" and read_bundle(data).hint not in {key.hint for key in trusted.keys}:
            return _Judged(name, objection=found, why="nobody trusts whom it names")
        return _Judged(name, faults=[found])
    signer = trusted.of(statement.hint)
    if faults := list(_uncovered(statement, subject, name)):
        return _Judged(name, statement, signer, faults=faults)
    objection = signer.objection(subject.path, today)
    if objection is None:
        return _Judged(name, statement, signer)
    rule, clause = objection
    why = f"the signer {signer.title} {clause}"
    found = finding(rule, f"{why[0].upper()}{why[1:]}.", where=name)
    return _Judged(name, statement, signer, objection=found, why=why)


def _unexpected(subject: VerificationTarget, expected: Expectation) -> Iterator[Finding]:
    manifest, where = subject.manifest, Sidecars(subject.path).manifest.name
    if expected.not_before is not None:
        written = _day(manifest.created)
        if written is None or written < expected.not_before:
            when = f"on {written}" if written else f"'{printable(manifest.created)}', which is no moment"
            message = f"The manifest was written {when}, and nothing before {expected.not_before} is accepted."
            yield finding("T017", message, where=where)
    held = {manifest.weights.digest, *(other.weights.digest for other in manifest.others)}
    if expected.weights is not None and expected.weights not in held:
        message = f"The weights are {manifest.weights.digest}, and {expected.weights} are expected."
        yield finding("T018", message, where=where)
    elif expected.weights is not None and not subject.signed and (name := _misdigested(subject)) is not None:
        message = f"The tensor {printable(name)} is another than the manifest says, and {expected.weights} is expected."
        yield finding("T018", message, where=where)


def _day(created: str) -> date | None:
    """The day, in UTC, of a moment in a manifest; None where it is none."""
    try:
        moment = datetime.fromisoformat(created)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).date()
    except (ValueError, OverflowError):
        return None


def _misdigested(subject: VerificationTarget) -> str | None:
    """The first tensor that has not the digest which a manifest that nobody vouches for gives it."""
    if not isinstance(subject.stored, Checkpoint):
        return subject.path.name
    held = subject.stored.tensors
    for tensor in subject.manifest.weights.tensors:
        if tensor.name not in held or subject.stored.digest(held[tensor.name]) != tensor.digest:
            return tensor.name
    return None


def _unsigned(subject: VerificationTarget, trusted: Signers | None) -> CheckResult:
    if trusted is not None or subject.manifest.signer is not None:
        why = "a signer is demanded" if trusted is not None else "the manifest says that it was signed"
        message = f"There is no signature beside {subject.path.name}, and {why}."
        return CheckResult("no signature", [finding("T004", message, where=Sidecars(subject.path).signature.name)])
    return CheckResult("not signed", [finding("T002", f"{subject.path.name} is not signed.")])


def _untrusted(subject: VerificationTarget) -> CheckResult:
    """What the signatures say of themselves, where nobody says who is trusted."""
    findings: list[Finding] = []
    named: dict[str, Statement] = {}
    for name, data in subject.contents.signatures.items():
        try:
            statement = read_bundle(data)
        except SignatureError as error:
            findings.append(finding(error.rule, str(error), where=name))
            continue
        findings += _uncovered(statement, subject, name)
        named[name] = statement
    if findings:
        return CheckResult(_not_holding(findings), findings)
    reason = "signer unknown: no key was given"
    if (said := subject.manifest.signer) is not None and all(each.hint != said for each in named.values()):
        where, statement = next(iter(named.items()))
        message = f"The signature names {statement.signer}, and the manifest says that {said[:16]} signed."
        return CheckResult(reason, [finding("T006", message, where=where)])
    return CheckResult(
        reason,
        [
            finding("T001", f"The signature names {each.signer}, and no key was given to check it by.", where=name)
            for name, each in named.items()
        ],
    )


def _pending(subject: VerificationTarget) -> list[Finding]:
    """What became of pending sidecars, which reading leaves as they are."""
    pending = subject.contents.pending
    if pending is None:
        return []
    where = Sidecars(subject.path).pending_manifest.name
    message = pending_words(subject.path, pending)
    severity = Severity.WARNING if pending is Pending.USED_OVER_SIGNED else None
    remedy = None if pending is Pending.USED else _OVER_SIGNED
    return [finding("T009", message, where=where, severity=severity, remedy=remedy)]


def _uncovered(statement: Statement, subject: VerificationTarget, where: str) -> Iterator[Finding]:
    """What a signature says of other bytes than those that lie here, or says nothing of."""
    signed = set(statement.resources.values())
    manifest = Sidecars(subject.path).manifest.name
    if subject.contents.manifest_sha256 not in signed:
        if any(name.endswith(MANIFEST_INSIDE) for name in statement.resources):
            yield finding("T006", "The signature covers another manifest than the one beside it.", where=where)
        else:
            files = printable_list(statement.resources, 3)
            yield finding("T010", f"The signature covers {files}, and not {manifest}.", where=where)
        return
    for file in subject.manifest.checkpoint.files:
        if file.sha256 not in signed:
            message = f"The signature covers another file {file.path} than the one beside it."
            yield finding("T006", message, where=where)
            return
    if not subject.is_remote:
        yield from _others_changed(statement, subject, where)


def _others_changed(statement: Statement, subject: VerificationTarget, where: str) -> Iterator[Finding]:
    """Which of the signed files that are neither the manifest nor described by it are not as they were signed."""
    known = {subject.contents.manifest_sha256, *(file.sha256 for file in subject.manifest.checkpoint.files)}
    folder = _folder(subject.path)
    for name, digest in statement.resources.items():
        if digest in known:
            continue
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            yield finding("T006", f"The signature covers {name}, which is a link that leads elsewhere.", where=where)
        elif not path.is_file():
            yield finding("T006", f"The signature covers {name}, which is not there.", where=where)
        elif file_sha256(path) != digest:
            message = f"The signature covers another file {name} than the one beside it."
            yield finding("T006", message, where=where)


def _not_signed(subject: VerificationTarget, judged: list[_Judged]) -> list[Finding]:
    """The files in the checkpoint's directory that no signature covers, as a note; more where they look like weights.

    Of a file by itself, what else lies beside it is of no concern.
    """
    files = subject.manifest.checkpoint.files
    if subject.is_remote or not (subject.path.is_dir() or len(files) > 1):
        return []
    folder = _folder(subject.path)
    statements = [each.statement for each in judged if each.counts and each.statement is not None]
    signed = {name for statement in statements for name in statement.resources}
    signed |= {*subject.contents.signatures, *(file.path for file in files), Sidecars(subject.path).manifest.name}
    unsigned = [name for name in sorted(islice(_names_below(folder), _MOST_LISTED)) if name not in signed]
    kinds = {PurePath(file.path).suffix for file in files} - {""}
    weights = [name for name in unsigned if PurePath(name).suffix in kinds - {".json"}]
    if not subject.path.is_dir():  # the index of some shards lies among files of all kinds
        unsigned = weights
    if not unsigned:
        return []
    message = f"No signature covers {printable_list(weights or unsigned)}."
    return [finding("T011", message, severity=Severity.WARNING if weights else None)]


def _names_below(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield (Path(place) / name).relative_to(folder).as_posix()


def _folder(checkpoint: Path) -> Path:
    """The directory to which the names in its signatures are relative."""
    return checkpoint if checkpoint.is_dir() else checkpoint.parent

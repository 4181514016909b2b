"""The rung of trust: who signed, is it what lies here, and is it somebody whom the caller trusts?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from manifest.checks.ladder import CheckResult
from manifest.checks.target import VerificationTarget
from manifest.errors import SignatureError
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.signing import PublicKey, Statement, read_bundle, verify_bundle
from manifest.storage.sidecars import Pending, Sidecars, pending_words

_OVER_SIGNED = (
    "If a save of yours was cut off, finish and sign it: `manifest repair CKPT --key release.key`; otherwise remove it."
)


def trust(subject: VerificationTarget, keys: Sequence[PublicKey]) -> CheckResult:
    """Who signed a checkpoint's manifest, as far as trusted keys tell; its bytes are not read.

    Args:
        subject: The checkpoint.
        keys: Public keys of the signers that are trusted, any of whom will do; none to say what there is.
    """
    result = _trust(subject, keys)
    return replace(result, findings=[*result.findings, *_pending(subject)])


def _trust(subject: VerificationTarget, keys: Sequence[PublicKey]) -> CheckResult:
    signature = subject.contents.signature
    if signature is None:
        if keys or subject.manifest.signer is not None:
            why = "a signer is demanded" if keys else "the manifest says that it was signed"
            message = f"There is no signature beside {subject.path.name}, and {why}."
            return CheckResult("no signature", [finding("T004", message, where=Sidecars(subject.path).signature.name)])
        return CheckResult("not signed", [finding("T002", f"{subject.path.name} is not signed.")])
    where = Sidecars(subject.path).signature.name
    try:
        statement = verify_bundle(signature, keys) if keys else read_bundle(signature)
    except SignatureError as error:
        return CheckResult("the signature does not hold", [finding(error.rule, str(error), where=where)])
    if uncovered := _uncovered(statement, subject):
        message = f"The signature covers another {uncovered} than the one beside it."
        return CheckResult("the signature is of something else", [finding("T006", message, where=where)])
    signer = f"key {statement.hint[:16]}"
    if not keys and subject.manifest.signer not in (None, statement.hint):
        message = f"The signature names {signer}, and the manifest says that key {subject.manifest.signer[:16]} signed."
        return CheckResult("signer unknown: no key was given", [finding("T006", message, where=where)])
    if not keys:
        message = f"The signature names {signer}, and no key was given to check it by."
        return CheckResult("signer unknown: no key was given", [finding("T001", message, where=where)])
    subject.signed = True
    among = f", one of {len(keys)} trusted keys" if len(keys) > 1 else ""
    return CheckResult(f"signed by the trusted {signer}{among}")


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


def _uncovered(statement: Statement, subject: VerificationTarget) -> str | None:
    """What the signature does not cover: the manifest's bytes, or the file that the manifest describes."""
    signed = set(statement.resources.values())
    if subject.contents.manifest_sha256 not in signed:
        return "manifest"
    return next((f"file {file.path}" for file in subject.manifest.checkpoint.files if file.sha256 not in signed), None)

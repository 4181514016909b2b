"""Reports held to a policy: what it demands and nothing met, what it weighs otherwise, and what it waives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path, PurePath
from typing import Any

from manifest.checks.policy import OWN, GoldenPolicy, Policy, Waiver, Weight, listed, words_of
from manifest.escaping import printable
from manifest.schema.document import Golden
from manifest.schema.report import ComponentVerdict, Finding, Kind, Outcome, Report, Rung, Severity, outcome_of
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Status, Training
from manifest.validation import nearest_names

RUNG = "policy"
"""Name of the rung that holds what a policy demands."""
_BY_VERIFY = "Check it against its manifest: `manifest verify CKPT --policy POLICY`."
_NOT_SHOWN = "Name in `components.require` the roles that must be trained: of small parts, numbers do not show it."


def apply(
    policy: Policy, report: Report, path: PurePath, today: date, *, models: Mapping[str, Report] | None = None
) -> Report:
    """Hold a report to a policy.

    Args:
        policy: What is demanded, weighed and waived.
        report: What a check found; what it did not look at is not met: signatures and golden outputs by an audit.
        path: Where the checkpoint lies; absolute, so that patterns find its directories.
        today: The day, in UTC, on which waivers hold or have expired.
        models: Reports of each model in it by the keys of its weights, the one that is meant under "", where there are
            several: each must meet what is demanded of a model.

    Returns:
        Another report: severities as the policy has them, waived findings marked with their reason, what is ignored
        left out, the outcome of each rung accordingly, and a last rung `policy` with what is not met.
    """
    if report.error is not None:
        return report.model_copy(deep=True)
    here = [waiver for waiver in policy.waivers if waiver.covers(path)]
    holding = {waiver.rule: waiver for waiver in reversed(here) if today <= waiver.expires}
    rungs = [rung for rung in report.rungs if rung.name != RUNG]
    own = [item for rung in report.rungs if rung.name == RUNG for item in rung.findings]
    demanded = [*own, *_unmet(policy, report, models or {"": report})]
    found = {item.rule for rung in rungs for item in rung.findings} | {item.rule for item in demanded}
    remarks = list(_remarks(here, found, today))
    unread = report.container is None and report.path is not None
    judged = [_judged(rung, policy, holding, firmly=unread and rung.name == "format") for rung in rungs]
    last = Rung(name=RUNG, outcome=Outcome.PASS, reason="met", seconds=_spent(report), findings=[*demanded, *remarks])
    last = _judged(last, policy, holding)
    if any(item.waived is None and item.rule not in OWN for item in last.findings):
        last = last.model_copy(update={"reason": f"not {last.reason}"})
    return report.model_copy(update={"rungs": [*judged, last]}, deep=True)


def apply_policy(
    report: Report,
    policy: Policy,
    path: str | os.PathLike[str],
    *,
    models: Mapping[str, Report] | None = None,
) -> Report:
    """`apply` today and to where a checkpoint really lies."""
    place = Path(os.path.normpath(Path(path).absolute()))
    return apply(policy, report, place, datetime.now(UTC).date(), models=models)


def floor_findings(demand: GoldenPolicy, goldens: Sequence[Golden]) -> list[Finding]:
    """What a policy demands of the floors on record, and a manifest's do not keep."""
    bound = demand.max_floor
    if bound is None:
        return []
    measured = [golden for golden in goldens if golden.precision == "fp32"]
    if not measured:
        message = f"The policy wants a numerics floor up to {bound:g}, and the manifest records none in float32."
        remedy = "Save it with golden outputs, or take `golden.max_floor` out of the policy."
        return [finding("G006", message, where="golden", remedy=remedy, bound=bound)]
    findings = []
    for golden in measured:
        over = {cause: value for cause, value in golden.floor.items() if not 0 <= value <= bound}
        if over or not golden.floor:
            words = ", ".join(f"{printable(cause)} {value:.1e}" for cause, value in over.items())
            words = words or "nobody measured how far"
            message = f"Arithmetic moves the outputs of {printable(golden.probe)} further than {bound:g}: {words}."
            findings.append(finding("G006", message, where="golden", floor=golden.floor, bound=bound))
    return findings


def _unmet(policy: Policy, report: Report, models: Mapping[str, Report]) -> Iterator[Finding]:
    """Demands that nothing in a report meets; those on floors need the manifest, so `verify` brings them along."""
    subject = printable(report.subject)
    if policy.containers.forbid and report.container is None:
        message = f"The policy forbids {listed(policy.containers.forbid, 'and')}, and what {subject} is cannot be read."
        yield finding("P011", message, where=subject, remedy="Get the file again from its source.")
    elif report.container in policy.containers.forbid:
        yield finding("P011", f"The policy forbids {report.container}, and {subject} is one.", where=subject)
    if policy.signature.required:
        yield from _unsigned(report)
    for state, model in models.items():
        for item in _unmet_by_model(policy, model):
            where = f"{state}: {item.where}" if state else item.where
            yield item.model_copy(update={"where": where})


def _unmet_by_model(policy: Policy, model: Report) -> Iterator[Finding]:
    """Demands on each model of a checkpoint."""
    for role in policy.components.require:
        if (problem := _incompleteness(role, model.components)) is not None:
            message = f"The policy demands the {words_of(role)} complete, and {problem} {printable(model.subject)}."
            yield finding("P010", message, where=printable(role))
    if policy.components.trained:
        yield from _untrained(policy.components.require, model)
    if policy.golden.required and (lack := _not_compared(model)) is not None:
        message = f"The policy demands that golden outputs agree, and {lack}."
        remedy = "Save with `golden=True`, verify without `--fast`, and give the probes that it was saved with."
        remedy = _BY_VERIFY if model.kind is Kind.AUDIT else remedy
        yield finding("G003", message, severity=Severity.ERROR, where="golden", remedy=remedy)
    if policy.golden.max_floor is not None and model.kind is Kind.AUDIT:
        message = "The policy bounds the numerics floor, and an audit reads no record of it; use `manifest verify`."
        yield finding("G006", message, where="golden", remedy=_BY_VERIFY)


def _incompleteness(role: str, components: Sequence[ComponentVerdict]) -> str | None:
    """What keeps a role from being complete, as the beginning of a clause about the checkpoint."""
    if not components:
        return "nothing is known of the components of"
    parts = [part for part in components if part.role == role]
    if not parts:
        roles = [part.role for part in components]
        nearest = [f", did you mean {printable(name)}," for name in nearest_names(role, roles, most=1)]
        return f"there is none among {printable(', '.join(roles), 200)}{''.join(nearest)} of"
    part = next((part for part in parts if part.status is not Status.COMPLETE), None)
    return None if part is None else f"it is {part.status}{' by design' * part.by_design} in"


def _untrained(roles: Sequence[str], model: Report) -> Iterator[Finding]:
    """Components that nothing shows to be trained."""
    known = {part.role for part in model.components}
    if not known or not known.issuperset(roles):
        lacking = [words_of(role) for role in roles if role not in known] or ["components"]
        message = f"The policy demands a trained model, and nothing is known of the {listed(lacking)}."
        yield finding("P013", message, where=printable(model.subject))
    for part in model.components:
        if part.training is not Training.TRAINED and (part.role in roles or not roles):
            found, remedy = "its numbers are as initialised", None
            if part.training is Training.BARELY:
                found = "its numbers have barely moved from where they were initialised"
            if part.training is Training.UNKNOWN:
                absent = part.status is Status.ABSENT
                found = "it is absent" if absent else "nothing in its numbers shows that it was trained"
                remedy = None if absent else _NOT_SHOWN
            message = f"The policy demands a trained {words_of(part.role)}, and {found}."
            yield finding("P013", message, where=printable(part.role), remedy=remedy)


def _not_compared(model: Report) -> str | None:
    """Why golden outputs have not been shown to agree, as a clause; None where they have."""
    rung = next((rung for rung in model.rungs if rung.name == "golden"), None)
    if rung is None:
        return "an audit asks for none; use `manifest verify`" if model.kind is Kind.AUDIT else "none were compared"
    if rung.outcome is Outcome.SKIP:
        return f"none were compared: {printable(rung.reason, 300)}"
    if any(item.severity is not Severity.NOTE for item in rung.findings):
        return f"these do not: {printable(rung.reason, 300)}"
    return None


def _unsigned(report: Report) -> Iterator[Finding]:
    trust, remedy = next((rung for rung in report.rungs if rung.name == "trust"), None), None
    if trust is None:
        remedy = "Check it with the signer's public key: `manifest verify CKPT --key release.pub --policy POLICY`."
        message = "The policy demands a signature by a trusted key, and an audit checks none; use `manifest verify`."
    elif trust.outcome is not Outcome.PASS or any(item.severity is not Severity.NOTE for item in trust.findings):
        found = printable(trust.reason, 300)
        message = f"The policy demands a signature by a trusted key, and found is this: {found}."
    else:
        return
    yield finding("P012", message, where=printable(report.subject), remedy=remedy)


def _remarks(waivers: Sequence[Waiver], found: set[str], today: date) -> Iterator[Finding]:
    """What there is to say of the waivers themselves."""
    for waiver in waivers:
        facts: dict[str, Any] = {"path": waiver.path, "reason": waiver.reason, "expires": str(waiver.expires)}
        if today > waiver.expires:
            yield finding("P001", f"{waiver.in_words()} expired on {waiver.expires}.", where=waiver.rule, **facts)
        elif waiver.rule not in found:
            yield finding("P002", f"{waiver.in_words()} excuses nothing.", where=waiver.rule, **facts)


def _judged(rung: Rung, policy: Policy, holding: Mapping[str, Waiver], *, firmly: bool = False) -> Rung:
    """A rung with its findings weighed and waived; `firmly` where they say why nothing is known, which counts."""
    kept = []
    for item in rung.findings:
        weight = None if firmly else policy.severities.get(item.rule)
        if weight is Weight.IGNORE:
            continue
        update: dict[str, Any] = {} if weight is None else {"severity": Severity(weight)}
        if item.rule in holding:
            update["waived"] = holding[item.rule].reason
        kept.append(item.model_copy(update=update))
    waived, ignored = sum(item.waived is not None for item in kept), len(rung.findings) - len(kept)
    reason = rung.reason + (f"; {waived} waived" if waived else "") + (f"; {ignored} ignored" if ignored else "")
    outcome = rung.outcome if rung.outcome is Outcome.SKIP else outcome_of(kept)
    return rung.model_copy(update={"findings": kept, "reason": reason, "outcome": outcome})


def _spent(report: Report) -> float:
    return sum(rung.seconds for rung in report.rungs if rung.name == RUNG)

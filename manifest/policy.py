"""What a release or a download must be, beyond what its manifest promises: a YAML file, read strictly.

A policy demands (components, containers, a signer, golden outputs), weighs (severities by rule), and waives (a rule, at
a path, for a reason, until a date). `apply` is a pure function, of no file and no clock; `hold` gives it both.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints, ValidationError

from manifest.checkpoint import sharded
from manifest.checkpoint.escaping import printable
from manifest.checkpoint.opening import CONTAINERS
from manifest.document import Golden, Status, Training, role_words
from manifest.errors import InputError, one_line
from manifest.findings import (
    RULES,
    ComponentVerdict,
    Finding,
    Kind,
    Outcome,
    Report,
    Rung,
    Severity,
    finding,
    nearest_rules,
    outcome_of,
)
from manifest.small_files import read_small

RUNG = "policy"
"""Name of the rung that holds what a policy demands."""

CONTAINER_NAMES = tuple(container.name for container in CONTAINERS if container is not sharded.CONTAINER)
"""What containers are called; shards are called what each of them is."""

_OWN = ("P001", "P002")
_NO_VALUES = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What PyYAML raises, besides its own errors, for a value that is not what its form promises, as the 31st of June."""


def _known_rule(code: str) -> str:
    if code not in RULES:
        nearest = nearest_rules(code)
        hint = f"did you mean {' or '.join(nearest)}" if nearest else "`manifest rule` lists them"
        raise ValueError(f"there is no rule '{printable(code, 40)}', {hint}")
    return code


def _waivable(code: str) -> str:
    if code in _OWN:
        raise ValueError(f"{code} is about waivers and cannot be waived; set its severity instead")
    return _known_rule(code)


def _known_container(name: str) -> str:
    if name not in CONTAINER_NAMES:
        raise ValueError(f"there is no container '{printable(name, 40)}', expected one of {', '.join(CONTAINER_NAMES)}")
    return name


def _pattern(text: str) -> str:
    if "**" in text:
        raise ValueError("a pattern matches from the right, so '**' is not needed; write heads/*.pt for any heads/")
    try:
        PurePath("checkpoint").match(text)
    except ValueError:
        raise ValueError("the pattern is empty; write *.pt, or leave `path` out for every checkpoint") from None
    return text


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
RuleCode = Annotated[str, AfterValidator(_known_rule)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Weight(StrEnum):
    """What a rule counts as: its severity, or nothing at all."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    IGNORE = "ignore"


class GoldenPolicy(_Part):
    """What is demanded of golden outputs."""

    required: StrictBool = Field(default=False, description="Whether there must be some.")
    max_floor: float | None = Field(
        default=None,
        gt=0,
        description="Greatest relative distance by which arithmetic alone may move outputs, whatever the cause.",
    )


class ComponentsPolicy(_Part):
    """What is demanded of the parts of a model."""

    require: tuple[Words, ...] = Field(
        default=(), description="Roles that must be complete, as in text_tower, also where a manifest excuses them."
    )
    trained: StrictBool = Field(
        default=False,
        description="Whether these, or all components where none is named, must not be as their initialiser left them.",
    )


class ContainersPolicy(_Part):
    """What is demanded of the form of the file."""

    forbid: tuple[Annotated[str, AfterValidator(_known_container)], ...] = Field(
        default=(), description="Containers that are refused, as `manifest show` names them."
    )


class SignaturePolicy(_Part):
    """What is demanded of the signature."""

    required: StrictBool = Field(default=False, description="Whether a key that is trusted must have signed.")


class Waiver(_Part):
    """One exception: findings of a rule, at some paths, for a reason, until a date."""

    rule: Annotated[str, AfterValidator(_waivable)]
    path: Annotated[str, AfterValidator(_pattern)] | None = Field(
        default=None,
        description="Which checkpoints, as by `pathlib.PurePath.match` on the whole path: from the right, so that "
        "heads/*.pt is in any directory heads; * stays within a name. Left out: all of them.",
    )
    reason: Words = Field(description="Why, for whoever reads the report.")
    expires: date = Field(description="The last day on which it holds, in UTC.")

    def covers(self, path: PurePath) -> bool:
        """Whether a checkpoint is one of those that it is for."""
        return self.path is None or path.match(self.path)

    def in_words(self) -> str:
        return f"The waiver of {self.rule}" + (f" for {printable(self.path)}" if self.path else "")


class Policy(_Part):
    """What a release demands."""

    schema_version: Literal["policy/v1"] = Field(alias="schema")
    components: ComponentsPolicy = ComponentsPolicy()
    containers: ContainersPolicy = ContainersPolicy()
    signature: SignaturePolicy = SignaturePolicy()
    golden: GoldenPolicy = GoldenPolicy()
    severities: dict[RuleCode, Weight] = Field(
        default_factory=dict, description="What rules count as, by code, wherever they are found."
    )
    waivers: tuple[Waiver, ...] = Field(default=(), description="Exceptions.")


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """A policy out of its file.

    Raises:
        InputError: There is no such file, or it is no policy; the message names the field.
    """
    source = Path(path)
    data = read_small(source, "policy")
    try:
        return Policy.model_validate(yaml.load(data, Loader=_UniqueKeys))
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise InputError(f"The policy {source.name} is not valid YAML ({place:.200}); correct it.") from None
    except RecursionError:
        raise InputError(f"The policy {source.name} is nested too deeply; simplify it.") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part != "[key]") or "the top"
        what = first["msg"].removeprefix("Value error, ")
        raise InputError(f"The policy {source.name} is not valid at {where!r}: {what}; correct it.") from None
    except _NO_VALUES as error:
        raise InputError(f"The policy {source.name} is not valid YAML ({one_line(error)}); correct it.") from None


def apply(policy: Policy, report: Report, path: PurePath, today: date) -> Report:
    """Hold a report to a policy.

    Args:
        policy: What is demanded, weighed and waived.
        report: What a check found; of an audit, what it cannot tell (signatures, golden outputs) is not met.
        path: Where the checkpoint lies; absolute, so that patterns find its directories.
        today: The day, in UTC, on which waivers hold or have expired.

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
    demanded = [*own, *_unmet(policy, report)]
    found = {item.rule for rung in rungs for item in rung.findings} | {item.rule for item in demanded}
    remarks = list(_remarks(here, found, today))
    judged = [_judged(rung, policy, holding) for rung in rungs]
    last = Rung(name=RUNG, outcome=Outcome.PASS, reason="met", seconds=_spent(report), findings=[*demanded, *remarks])
    last = _judged(last, policy, holding)
    if last.outcome is Outcome.FAIL:
        last = last.model_copy(update={"reason": f"not {last.reason}"})
    return report.model_copy(update={"rungs": [*judged, last]}, deep=True)


def hold(report: Report, policy: Policy | None, path: str | os.PathLike[str]) -> Report:
    """`apply` today and to where a checkpoint really lies; without a policy, the report as it is."""
    if policy is None:
        return report
    return apply(policy, report, Path(os.path.normpath(Path(path).absolute())), datetime.now(UTC).date())


def golden_findings(demand: GoldenPolicy, goldens: Sequence[Golden]) -> list[Finding]:
    """What a policy demands of golden outputs, and a manifest's do not keep."""
    bound = demand.max_floor
    findings = []
    if demand.required and not goldens:
        message = "The policy demands golden outputs, and the manifest records none."
        findings.append(finding("G003", message, severity=Severity.ERROR, where="golden"))
    for golden in goldens:
        over = {cause: value for cause, value in golden.floor.items() if bound is not None and value > bound}
        if bound is not None and golden.precision == "fp32" and (over or not golden.floor):
            words = ", ".join(f"{cause} {value:.1e}" for cause, value in over.items()) or "nobody measured how far"
            message = f"Arithmetic moves the outputs of {golden.probe} further than {bound:g}: {words}."
            findings.append(finding("G006", message, where="golden", floor=golden.floor, bound=bound))
    return findings


def demands(policy: Policy) -> str:
    """What a policy demands, weighs and waives, in one line."""
    parts = []
    if policy.components.require:
        parts.append(f"{_listed(policy.components.require)} complete{' and trained' * policy.components.trained}")
    elif policy.components.trained:
        parts.append("every component trained")
    if policy.containers.forbid:
        parts.append(f"no {_listed(policy.containers.forbid, 'or')}")
    if policy.signature.required:
        parts.append("a signature by a trusted key")
    if policy.golden.required:
        parts.append("golden outputs")
    if policy.golden.max_floor is not None:
        parts.append(f"a numerics floor up to {policy.golden.max_floor:g}")
    weights = [f"{code} as {weight}" for code, weight in policy.severities.items()]
    waived = [waiver.rule + (f" for {waiver.path}" if waiver.path else "") for waiver in policy.waivers]
    sentence = f"demands {', '.join(parts) or 'nothing'}"
    sentence += f"; counts {', '.join(weights)}" if weights else ""
    return sentence + (f"; waives {', '.join(waived)}" if waived else "")


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error, rather than the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


def _unmet(policy: Policy, report: Report) -> Iterator[Finding]:
    """Demands on what a report tells; those on golden outputs need the manifest, so `verify` brings them along."""
    for role in policy.components.require:
        if (problem := _incompleteness(role, report.components)) is not None:
            message = f"The policy demands the {_words(role)} complete, and {problem} {printable(report.subject)}."
            yield finding("P010", message, where=printable(role))
    if policy.components.trained:
        yield from _untrained(policy.components.require, report.components)
    if report.container in policy.containers.forbid:
        message = f"The policy forbids {report.container}, and {printable(report.subject)} is one."
        yield finding("P011", message, where=printable(report.subject))
    if policy.signature.required:
        yield from _unsigned(report)
    if report.kind is Kind.AUDIT and (policy.golden.required or policy.golden.max_floor is not None):
        message = "The policy demands golden outputs, and an audit asks for none; use `manifest verify`."
        yield finding("G003", message, severity=Severity.ERROR, where="golden")


def _incompleteness(role: str, components: Sequence[ComponentVerdict]) -> str | None:
    """What keeps a role from being complete, as the beginning of a clause about the checkpoint."""
    if not components:
        return "nothing is known of the components of"
    part = next((part for part in components if part.role == role), None)
    if part is None:
        return f"there is none among {printable(', '.join(part.role for part in components), 200)} of"
    if part.status is Status.COMPLETE:
        return None
    return f"it is {part.status}{' by design' * part.by_design} in"


def _untrained(roles: Sequence[str], components: Sequence[ComponentVerdict]) -> Iterator[Finding]:
    for part in components:
        if part.training is Training.INITIALISED and (part.role in roles or not roles):
            message = f"The policy demands a trained {_words(part.role)}, and its norms are as initialised."
            yield finding("P013", message, where=printable(part.role))


def _unsigned(report: Report) -> Iterator[Finding]:
    trust = next((rung for rung in report.rungs if rung.name == "trust"), None)
    if trust is None:
        message = "The policy demands a signature by a trusted key, and an audit checks none; use `manifest verify`."
    elif trust.findings:
        message = f"The policy demands a signature by a trusted key, and found is this: {trust.reason}."
    else:
        return
    yield finding("P012", message, where=printable(report.subject))


def _remarks(waivers: Sequence[Waiver], found: set[str], today: date) -> Iterator[Finding]:
    """What there is to say of the waivers themselves."""
    for waiver in waivers:
        facts: dict[str, Any] = {"path": waiver.path, "reason": waiver.reason, "expires": str(waiver.expires)}
        if today > waiver.expires:
            yield finding("P001", f"{waiver.in_words()} expired on {waiver.expires}.", where=waiver.rule, **facts)
        elif waiver.rule not in found:
            yield finding("P002", f"{waiver.in_words()} excuses nothing.", where=waiver.rule, **facts)


def _judged(rung: Rung, policy: Policy, holding: dict[str, Waiver]) -> Rung:
    """A rung with its findings weighed and waived."""
    kept = []
    for item in rung.findings:
        weight = policy.severities.get(item.rule)
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


def _words(role: str) -> str:
    return printable(role_words(role))


def _listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = (printable(name) for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last

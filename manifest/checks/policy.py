"""What a release or a download must be, beyond what its manifest promises: a YAML file, read strictly.

A policy demands (components, containers, a signer, golden outputs), weighs (severities by rule), and waives (a rule, at
a path, for a reason, until a date). A demand is met by what a check found, and by nothing else: what was not looked at
does not meet it. `apply` is a pure function, of no file and no clock; `apply_policy` gives it both.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from manifest.checkpoint.containers import sharded
from manifest.checkpoint.opening import CONTAINERS
from manifest.errors import InputError, one_line
from manifest.escaping import printable
from manifest.schema.document import Golden
from manifest.schema.report import ComponentVerdict, Finding, Kind, Outcome, Report, Rung, Severity, outcome_of
from manifest.schema.rules import RULES, finding, nearest_rules
from manifest.schema.vocabulary import ROLES, Status, Training, role_words
from manifest.storage.bounded_read import read_small
from manifest.validation import first_fault, nearest_names, quoted, unknown

RUNG = "policy"
"""Name of the rung that holds what a policy demands."""

CONTAINER_NAMES = tuple(container.name for container in CONTAINERS if container is not sharded.CONTAINER)
"""What containers are called; shards are called what each of them is."""

FIRM = frozenset({*(code for code in RULES if code.startswith("I")), "T003", "T006", "F002", "F008", "F010"})
"""Rules by which a checkpoint is corrupt, forged or runs code: these count as errors, or are waived path by path."""

_LARGEST = 64 << 10  # bytes: some four hundred waivers, which PyYAML reads within seconds, whatever they are
_LONGEST_VALUE = 4096
_MOST_ROLES = 100
_MOST_WAIVERS = 10_000
_OWN = ("P001", "P002")
_DEMANDS = {"P010", "P011", "P012", "P013"}
"""Rules by which a demand is not met, and which are of nothing else."""
_NO_VALUES = (ValueError, LookupError, TypeError, AttributeError, OverflowError)
"""What PyYAML raises, besides its own errors, for a value that is not what its form promises, as the 31st of June."""


def _known_rule(code: str) -> str:
    if code not in RULES:
        nearest = nearest_rules(code)
        hint = f"did you mean {' or '.join(nearest)}" if nearest else "`manifest rule` lists them"
        raise ValueError(f"there is no rule {quoted(code)}, {hint}")
    return code


def _waivable(code: str) -> str:
    if code in _OWN:
        raise ValueError(f"{code} is about waivers and cannot be waived; set its severity instead")
    return _known_rule(code)


def _known_container(name: str) -> str:
    if name not in CONTAINER_NAMES:
        raise ValueError(unknown(f"there is no container {quoted(name)}", name, CONTAINER_NAMES))
    return name


def _role(name: str) -> str:
    """A role; one that no family here has may be that of a family of somebody's own, unless it looks mistyped."""
    if name not in ROLES and (nearest := nearest_names(name, ROLES)):
        raise ValueError(f"there is no role {quoted(name)}, did you mean {' or '.join(nearest)}")
    return name


def _pattern(text: str) -> str:
    if "**" in text:
        raise ValueError("a pattern matches from the right, so '**' is not needed; write heads/*.pt for any heads/")
    try:
        PurePath("checkpoint").match(text)
    except ValueError:
        raise ValueError("the pattern is empty; write *.pt, or leave `path` out for every checkpoint") from None
    return text


def _day(value: object) -> object:
    """A day and not a moment: a time zone would make it another day in UTC, and a number is no date to a reader."""
    if isinstance(value, str):
        try:
            return datetime.strptime(value, "%Y-%m-%d").date()
        except ValueError:
            raise ValueError(f"there is no day {quoted(value)}, expected one such as 2027-01-31") from None
    if isinstance(value, datetime) or not isinstance(value, date):
        raise ValueError("a day is expected, such as 2027-01-31, without a time")
    return value


def _names_a_place(pattern: str | None) -> bool:
    """Whether a part of a pattern is a name without wildcards, so that it is for some checkpoints and not for all."""
    path = PurePath(pattern or "")
    return any(not set("*?[") & set(part) for part in path.parts if part not in (path.anchor, ".."))


Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
Role = Annotated[Words, AfterValidator(_role)]
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

    required: StrictBool = Field(
        default=False, description="Whether outputs must have been compared with recorded ones, and agree."
    )
    max_floor: float | None = Field(
        default=None,
        gt=0,
        description="Greatest relative distance by which arithmetic alone may move outputs, whatever the cause.",
    )


class ComponentsPolicy(_Part):
    """What is demanded of the parts of a model."""

    require: tuple[Role, ...] = Field(
        default=(),
        max_length=_MOST_ROLES,
        description="Roles that must be complete, as in text_tower, also where a manifest excuses them.",
    )
    trained: StrictBool = Field(
        default=False,
        description="Whether these, or all components where none is named, must be shown by their numbers to be "
        "trained: what cannot be told is not trained.",
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
    expires: Annotated[date, BeforeValidator(_day)] = Field(description="The last day on which it holds, in UTC.")

    @model_validator(mode="after")
    def _narrow(self) -> Waiver:
        if self.rule in FIRM and not _names_a_place(self.path):
            raise ValueError(
                f"a waiver of {self.rule} ({RULES[self.rule].name}) needs a path with the name of a file or folder in "
                "it, as in heads/*.pt, for it excuses nothing everywhere"
            )
        return self

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
    waivers: tuple[Waiver, ...] = Field(default=(), max_length=_MOST_WAIVERS, description="Exceptions.")

    @field_validator("severities")
    @classmethod
    def _firm(cls, severities: dict[str, Weight]) -> dict[str, Weight]:
        for code, weight in severities.items():
            if code in FIRM and weight is not Weight.ERROR:
                raise ValueError(
                    f"{code} ({RULES[code].name}) cannot count as {weight}, for it says that a checkpoint is corrupt, "
                    "forged or runs code; waive it for a path, with a reason and a last day"
                )
        return severities

    @model_validator(mode="after")
    def _demanding(self) -> Policy:
        demanded = _DEMANDS | ({"G003"} if self.golden.required else set())
        demanded |= {"G006"} if self.golden.max_floor is not None else set()
        for code, weight in self.severities.items():
            if code in demanded and weight in (Weight.NOTE, Weight.IGNORE):
                raise ValueError(
                    f"{code} ({RULES[code].name}) cannot count as {weight}, for then nothing would meet what the "
                    "policy demands; make it a warning, waive it, or take the demand out"
                )
        return self


def read_policy(path: str | os.PathLike[str]) -> Policy:
    """A policy out of its file.

    Raises:
        InputError: There is no such file, or it is no policy; the message names the field.
    """
    source = Path(path)
    data = read_small(source, "policy", most=_LARGEST)
    try:
        return Policy.model_validate(yaml.load(data, Loader=_Plain))
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise InputError(f"The policy {source.name} is not valid YAML ({place:.200}); correct it.") from None
    except RecursionError:
        raise InputError(f"The policy {source.name} is nested too deeply; simplify it.") from None
    except ValidationError as error:
        fault = first_fault(error, Policy)
        raise InputError(
            f"The policy {source.name} is not valid at {fault.where!r}: {fault.what}; correct it."
        ) from None
    except _NO_VALUES as error:
        raise InputError(f"The policy {source.name} is not valid YAML ({one_line(error)}); correct it.") from None


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
    if any(item.waived is None and item.rule not in _OWN for item in last.findings):
        last = last.model_copy(update={"reason": f"not {last.reason}"})
    return report.model_copy(update={"rungs": [*judged, last]}, deep=True)


def apply_policy(
    report: Report,
    policy: Policy | None,
    path: str | os.PathLike[str],
    *,
    models: Mapping[str, Report] | None = None,
) -> Report:
    """`apply` today and to where a checkpoint really lies; without a policy, the report as it is."""
    if policy is None:
        return report
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


class _Plain(yaml.SafeLoader):
    """YAML in which a key that comes twice is an error, and which cannot grow beyond what is written.

    Merge keys copy, and so a few lines of them could stand for millions; a number of many digits takes for ever.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "a merge key '<<'", key.start_mark)
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {quoted(key.value)} twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_VALUE:
            found = f"a value of {len(node.value):,} characters, expected at most {_LONGEST_VALUE:,}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark)
        return super().construct_scalar(node)


def _unmet(policy: Policy, report: Report, models: Mapping[str, Report]) -> Iterator[Finding]:
    """Demands that nothing in a report meets; those on floors need the manifest, so `verify` brings them along."""
    subject = printable(report.subject)
    if policy.containers.forbid and report.container is None:
        message = (
            f"The policy forbids {_listed(policy.containers.forbid, 'and')}, and what {subject} is cannot be read."
        )
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
            message = f"The policy demands the {_words(role)} complete, and {problem} {printable(model.subject)}."
            yield finding("P010", message, where=printable(role))
    if policy.components.trained:
        yield from _untrained(policy.components.require, model)
    if policy.golden.required and (lack := _not_compared(model)) is not None:
        message = f"The policy demands that golden outputs agree, and {lack}."
        remedy = "Save with `golden=True`, verify without `--fast`, and give the probes that it was saved with."
        yield finding("G003", message, severity=Severity.ERROR, where="golden", remedy=remedy)
    if policy.golden.max_floor is not None and model.kind is Kind.AUDIT:
        message = "The policy bounds the numerics floor, and an audit reads no record of it; use `manifest verify`."
        yield finding("G006", message, where="golden")


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
        lacking = [_words(role) for role in roles if role not in known] or ["components"]
        message = f"The policy demands a trained model, and nothing is known of the {_listed(lacking)}."
        yield finding("P013", message, where=printable(model.subject))
    for part in model.components:
        if part.training is not Training.TRAINED and (part.role in roles or not roles):
            found = "its numbers are as initialised"
            if part.training is Training.UNKNOWN:
                absent = part.status is Status.ABSENT
                found = "it is absent" if absent else "nothing in its numbers shows that it was trained"
            message = f"The policy demands a trained {_words(part.role)}, and {found}."
            yield finding("P013", message, where=printable(part.role))


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
    trust = next((rung for rung in report.rungs if rung.name == "trust"), None)
    if trust is None:
        message = "The policy demands a signature by a trusted key, and an audit checks none; use `manifest verify`."
    elif trust.outcome is not Outcome.PASS or any(item.rule != "T009" for item in trust.findings):
        found = printable(trust.reason, 300)
        message = f"The policy demands a signature by a trusted key, and found is this: {found}."
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


def _words(role: str) -> str:
    return printable(role_words(role))


def _listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = (printable(name) for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last

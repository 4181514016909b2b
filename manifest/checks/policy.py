"""What a release or a download must be, beyond what its manifest promises: a YAML file, read strictly.

A policy demands (components, containers, a signer, golden outputs), weighs (severities by rule), and waives (a rule, at
a path, for a reason, until a date). A demand is met by what a check found, and by nothing else: what was not looked at
does not meet it. How a report is held to it is in `policy_check`.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from datetime import date, datetime
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
from manifest.schema.rules import RULES, nearest_rules
from manifest.schema.vocabulary import ROLES, role_words
from manifest.storage.bounded_read import read_small
from manifest.validation import first_fault, nearest_names, quoted, unknown

CONTAINER_NAMES = tuple(container.name for container in CONTAINERS if container is not sharded.CONTAINER)
"""What containers are called; shards are called what each of them is."""

FIRM = frozenset({*(code for code in RULES if code.startswith("I")), "T003", "T006", "F002", "F008", "F010"})
"""Rules by which a checkpoint is corrupt, forged or runs code: these count as errors, or are waived path by path."""

_LARGEST = 64 << 10  # bytes: some four hundred waivers, which PyYAML reads within seconds, whatever they are
_LONGEST_VALUE = 4096
_MOST_ROLES = 100
_MOST_WAIVERS = 10_000
OWN = ("P001", "P002")
"""Rules on waivers, which are of policies alone and cannot be waived themselves."""
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
    if code in OWN:
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


def demands(policy: Policy) -> str:
    """What a policy demands, weighs and waives, in one line."""
    parts = []
    if policy.components.require:
        parts.append(f"{listed(policy.components.require)} complete{' and trained' * policy.components.trained}")
    elif policy.components.trained:
        parts.append("every component trained")
    if policy.containers.forbid:
        parts.append(f"no {listed(policy.containers.forbid, 'or')}")
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


def words_of(role: str) -> str:
    return printable(role_words(role))


def listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = (printable(name) for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last

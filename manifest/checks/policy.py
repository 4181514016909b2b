"""What a release or a download must be, beyond what its manifest promises: a YAML file, read strictly.

A policy demands (components, containers, a signer, golden outputs), weighs (severities by rule), and waives (a rule, at
a path, for a reason, until a date). A demand is met by what a check found, and by nothing else: what was not looked at
does not meet it. How a report is held to it is in `policy_check`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    field_validator,
    model_validator,
)

from manifest.checkpoint.containers import sharded
from manifest.checkpoint.opening import containers
from manifest.escaping import printable
from manifest.schema.rules import RULES, nearest_rules
from manifest.schema.vocabulary import ROLES, role_words
from manifest.storage.bounded_read import read_small
from manifest.strict_yaml import Day, Part, Pattern, Words, parse_yaml
from manifest.validation import nearest_names, quoted, unknown

CONTAINER_NAMES = tuple(container.name for container in containers() if container is not sharded.CONTAINER)
"""What containers are called; shards are called what each of them is."""

FIRM = frozenset({*(code for code in RULES if code.startswith("I")), "T003", "T006", "F002", "F008", "F010"})
"""Rules by which a checkpoint is corrupt, forged or runs code: these count as errors, or are waived path by path."""

_LARGEST = 64 << 10  # bytes: some four hundred waivers, which PyYAML reads within seconds, whatever they are
_MOST_ROLES = 100
_MOST_WAIVERS = 10_000
OWN = ("P001", "P002")
"""Rules on waivers, which are of policies alone and cannot be waived themselves."""
_DEMANDS = {"P010", "P011", "P012", "P013"}
"""Rules by which a demand is not met, and which are of nothing else."""


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


def _names_a_place(pattern: str | None) -> bool:
    """Whether a part of a pattern is a name without wildcards, so that it is for some checkpoints and not for all."""
    path = PurePath(pattern or "")
    return any(not set("*?[") & set(part) for part in path.parts if part not in (path.anchor, ".."))


Role = Annotated[Words, AfterValidator(_role)]
RuleCode = Annotated[str, AfterValidator(_known_rule)]


class Weight(StrEnum):
    """What a rule counts as: its severity, or nothing at all."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    IGNORE = "ignore"


class GoldenPolicy(Part):
    """What is demanded of golden outputs."""

    required: StrictBool = Field(
        default=False, description="Whether outputs must have been compared with recorded ones, and agree."
    )
    max_floor: float | None = Field(
        default=None,
        gt=0,
        description="Greatest relative distance by which arithmetic alone may move outputs, whatever the cause.",
    )


class ComponentsPolicy(Part):
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


class ContainersPolicy(Part):
    """What is demanded of the form of the file."""

    forbid: tuple[Annotated[str, AfterValidator(_known_container)], ...] = Field(
        default=(), description="Containers that are refused, as `manifest show` names them."
    )


class SignaturePolicy(Part):
    """What is demanded of the signature."""

    required: StrictBool = Field(default=False, description="Whether a key that is trusted must have signed.")


class Waiver(Part):
    """One exception: findings of a rule, at some paths, for a reason, until a date."""

    rule: Annotated[str, AfterValidator(_waivable)]
    path: Pattern | None = Field(
        default=None,
        description="Which checkpoints, as by `pathlib.PurePath.match` on the whole path: from the right, so that "
        "heads/*.pt is in any directory heads; * stays within a name. Left out: all of them.",
    )
    reason: Words = Field(description="Why, for whoever reads the report.")
    expires: Day = Field(description="The last day on which it holds, in UTC.")

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


class Policy(Part):
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
    return parse_yaml(read_small(source, "policy", most=_LARGEST), Policy, f"The policy {source.name}")


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


def words_of(role: str) -> str:
    return printable(role_words(role))


def listed(names: Sequence[str], word: str = "and") -> str:
    *others, last = (printable(name) for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last

"""Rules: what can be wrong with a checkpoint. The catalogue is `rules.toml`, one entry a rule.

A rule has one stable code; a finding is one place where a rule was broken.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from manifest.schema.report import Finding, Severity


@dataclass(frozen=True)
class Rule:
    """One thing that can be wrong with a checkpoint.

    Attributes:
        code: Letter of `LETTERS` and a number; stable for ever.
        name: The same in words, kebab-case.
        severity: What it counts as unless the finding or a policy says otherwise.
        why: Why it matters.
        cure: What to do.
        example: What a finding of it says.
    """

    code: str
    name: str
    severity: Severity
    why: str
    cure: str
    example: str


def finding(
    code: str,
    message: str,
    *,
    where: str | None = None,
    severity: Severity | None = None,
    remedy: str | None = None,
    **evidence: Any,
) -> Finding:
    """A finding under a rule of the catalogue, with the rule's severity and cure unless others are given."""
    rule = _catalogue()[code]
    return Finding(
        rule=code,
        name=rule.name,
        severity=severity or rule.severity,
        message=message,
        where=where,
        evidence=evidence,
        remedy=remedy or rule.cure,
    )


def nearest_rules(text: str) -> list[str]:
    """Codes of the rules that somebody may have meant, best first, by what is like their codes or their names."""
    asked = text.strip()
    by_name = {rule.name: code for code, rule in _catalogue().items()}
    codes = difflib.get_close_matches(asked.upper(), by_name.values(), n=len(by_name), cutoff=0.5)
    # A wrong number is likelier than a wrong letter, and a zero that was left out likelier than either.
    codes.sort(key=lambda code: (code[0] != asked[:1].upper(), code[1:].lstrip("0") != asked[1:].lstrip("0")))
    names = difflib.get_close_matches(asked.lower(), by_name, n=3, cutoff=0.5)
    return list(dict.fromkeys([*codes, *(by_name[name] for name in names)]))[:3]


LETTERS = {
    "T": "trust",
    "I": "integrity",
    "F": "format and safety",
    "C": "completeness",
    "A": "architecture",
    "E": "environment",
    "G": "golden outputs",
    "D": "determinism",
    "P": "policy",
}
"""What a rule is about, by the letter of its code: a rung of the ladder, the doctor, or a policy's demands."""


RULES: dict[str, Rule]
"""The catalogue, by code."""


@cache
def _catalogue() -> dict[str, Rule]:
    import tomllib

    written = tomllib.loads(Path(__file__).with_name("rules.toml").read_text(encoding="utf-8"))
    return {code: Rule(code, severity=Severity(rule.pop("severity")), **rule) for code, rule in written.items()}


def __getattr__(name: str) -> Any:
    """`RULES`, read when it is first asked for: nothing of it is needed where nothing is found."""
    if name != "RULES":
        raise AttributeError(f"module 'manifest.schema.rules' has no attribute {name!r}")
    return _catalogue()

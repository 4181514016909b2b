"""Reports as SARIF 2.1.0, for code scanning on GitHub and for whatever else reads it.

All reports become one run, since GitHub takes one of each category. A checkpoint has no lines, so every finding is on
its first, and what tells findings apart is a fingerprint of rule, checkpoint and place, which numbers do not enter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from manifest.escaping import printable
from manifest.schema.report import Finding, Report
from manifest.schema.rules import LETTERS, RULES, Rule
from manifest.version import __version__

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_INDEX = {code: index for index, code in enumerate(RULES)}
_LONGEST = 1000


def render(reports: Sequence[Report], *, exit_code: int | None = None, root: Path | None = None) -> str:
    """One SARIF log of one run.

    Args:
        reports: The reports, each of one checkpoint.
        exit_code: What the process ends with; that of the worst report when it is not given.
        root: Directory that paths are written relative to: the working directory when it is not given.
    """
    base = Path.cwd() if root is None else root
    places = [uri(report, base) for report in reports]
    artifacts = {place: index for index, place in enumerate(dict.fromkeys(places))}
    worst = max((report.exit_code for report in reports), default=0)
    run = {
        "tool": {"driver": _driver()},
        "invocations": [_invocation(reports, places, worst if exit_code is None else exit_code)],
        "artifacts": [{"location": {"uri": place}, "roles": ["analysisTarget"]} for place in artifacts],
        "results": _results(reports, places, artifacts),
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def uri(report: Report, root: Path) -> str:
    """Where a checkpoint is: relative to a directory when it lies inside of it, otherwise in full; a URL as it is."""
    if report.path is None:
        return quote(printable(report.subject, 200), safe="/")
    if "://" in report.path:
        return quote(_octets(report.path), safe="/:?#[]@!$&'()*+,;=%~")
    path = Path(os.path.normpath(root / report.path))
    if path.is_relative_to(root):
        return quote(_octets(path.relative_to(root).as_posix()), safe="/")
    return "file://" + quote(_octets(path.as_posix()), safe="/")


def _octets(path: str) -> bytes:
    """The bytes of a path: as the file system has them, or, for what no file system can hold, in UTF-8 all the same."""
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return path.encode("utf-8", "surrogatepass")


def _driver() -> dict[str, Any]:
    return {
        "name": "manifest",
        "version": __version__,
        "semanticVersion": __version__,
        "rules": [_rule(rule) for rule in RULES.values()],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    topic = LETTERS[rule.code[0]]
    return {
        "id": rule.code,
        "name": "".join(word.capitalize() for word in rule.name.split("-")),
        "shortDescription": {"text": f"{rule.name.replace('-', ' ').capitalize()}."},
        "fullDescription": {"text": rule.why},
        "help": {
            "text": f"Why it matters: {rule.why}\nWhat to do: {rule.cure}",
            "markdown": f"**Why it matters:** {rule.why}\n\n**What to do:** {rule.cure}",
        },
        "defaultConfiguration": {"level": str(rule.severity)},
        "properties": {"tags": topic.split(" and ")},
    }


def _invocation(reports: Sequence[Report], places: Sequence[str], exit_code: int) -> dict[str, Any]:
    problems = [
        {
            "level": "error",
            "message": {"text": printable(report.error, _LONGEST)},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": place}, "region": {"startLine": 1}}}],
        }
        for report, place in zip(reports, places, strict=True)
        if report.error is not None
    ]
    return {"executionSuccessful": not problems, "exitCode": exit_code, "toolExecutionNotifications": problems}


def _results(reports: Sequence[Report], places: Sequence[str], artifacts: Mapping[str, int]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    results = []
    for report, place in zip(reports, places, strict=True):
        for item in report.findings():
            key = json.dumps([item.rule, place, item.where])
            seen[key] += 1
            digest = hashlib.sha256(key.encode()).hexdigest()[:16]
            results.append(_result(item, place, artifacts[place], f"{digest}:{seen[key]}"))
    return results


def _result(item: Finding, place: str, index: int, fingerprint: str) -> dict[str, Any]:
    location: dict[str, Any] = {
        "physicalLocation": {
            "artifactLocation": {"uri": place, "index": index},
            "region": {"startLine": 1},
        }
    }
    if item.where:
        location["logicalLocations"] = [{"fullyQualifiedName": printable(item.where, _LONGEST)}]
    # Without a status, which is then "accepted": copies of the schema do not agree on the name of that property.
    excuse = {"kind": "external", "justification": printable(item.waived or "", _LONGEST)}
    return {
        "ruleId": item.rule,
        "ruleIndex": _INDEX[item.rule],
        "level": str(item.severity),
        "message": {"text": f"{printable(item.message, _LONGEST)} → {printable(item.remedy, _LONGEST)}"},
        "locations": [location],
        # Under this name GitHub takes it as it is; otherwise it would hash lines of a file that has none.
        "partialFingerprints": {"primaryLocationLineHash": fingerprint},
        # Given for all, if empty: a viewer then knows that the others are not suppressed.
        "suppressions": [excuse] if item.waived is not None else [],
    }

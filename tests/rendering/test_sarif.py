"""Reports as SARIF: valid by the published schema, and what GitHub's code scanning asks for beyond it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifest.rendering import sarif
from manifest.schema.report import Kind, Outcome, Report, Rung
from manifest.schema.rules import RULES, finding

SCHEMA = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
ROOT = Path("/work")


def report(*findings: Any, path: str | None = "models/ckpt.pt", **fields: Any) -> Report:
    rung = Rung(name="format", outcome=Outcome.FAIL, reason="looked at", seconds=0.1, findings=list(findings))
    return Report(kind=Kind.AUDIT, subject="ckpt.pt", path=path, rungs=[rung], **fields)


def run_of(*reports: Report, **arguments: Any) -> dict[str, Any]:
    log = json.loads(sarif.render(reports, root=ROOT, **arguments))
    VALIDATOR.validate(log)
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


UNSAFE = finding("F010", "The pickle names posix.system.", where="posix.system")
UNTRAINED = finding("C003", "The text tower was never trained.", where="text_tower")


def test_log_without_findings_has_no_results_and_every_rule() -> None:
    run = run_of(report())
    assert run["results"] == []
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(RULES)
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 1, "toolExecutionNotifications": []}]


def test_log_of_no_reports_is_valid() -> None:
    assert run_of()["invocations"][0]["exitCode"] == 0


def test_every_rule_comes_with_help_and_severity() -> None:
    for shown, rule in zip(run_of()["tool"]["driver"]["rules"], RULES.values(), strict=True):
        assert rule.why in shown["help"]["text"]
        assert rule.cure in shown["help"]["markdown"]
        assert shown["defaultConfiguration"]["level"] == rule.severity
        assert len(shown["fullDescription"]["text"]) <= 1024


def test_result_points_at_its_rule_and_at_the_first_line_of_the_checkpoint() -> None:
    run = run_of(report(UNSAFE))
    (result,) = run["results"]
    assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "F010"
    assert result["level"] == "error"
    assert UNSAFE.message in result["message"]["text"]
    assert UNSAFE.remedy in result["message"]["text"]
    (location,) = result["locations"]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "models/ckpt.pt", "index": 0},
        "region": {"startLine": 1},
    }
    assert location["logicalLocations"] == [{"fullyQualifiedName": "posix.system"}]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("ckpt.pt", "ckpt.pt"),
        ("./models/../ckpt.pt", "ckpt.pt"),
        ("/work/models/a b%#.pt", "models/a%20b%25%23.pt"),
        ("c:x.pt", "c%3Ax.pt"),
        ("/elsewhere/ckpt.pt", "file:///elsewhere/ckpt.pt"),
        ("../ckpt.pt", "file:///ckpt.pt"),
        ("https://example.org/a/model.pt?v=1", "https://example.org/a/model.pt?v=1"),
        ("\udcff.pt", "%FF.pt"),
        (None, "ckpt.pt"),
    ],
)
def test_path_is_relative_to_the_working_directory_and_a_uri(path: str | None, expected: str) -> None:
    (result,) = run_of(report(UNSAFE, path=path))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == expected


def fingerprints(*reports: Report) -> list[str]:
    return [result["partialFingerprints"]["primaryLocationLineHash"] for result in run_of(*reports)["results"]]


def test_fingerprint_stays_when_numbers_of_a_message_change() -> None:
    later = UNSAFE.model_copy(update={"message": "The pickle names it 7 times.", "evidence": {"count": 7}})
    assert fingerprints(report(UNSAFE)) == fingerprints(report(later))


def test_fingerprints_tell_rules_places_and_checkpoints_apart() -> None:
    other = UNSAFE.model_copy(update={"where": "posix.popen"})
    found = fingerprints(report(UNSAFE, other, UNTRAINED, UNSAFE), report(UNSAFE, path="models/other.pt"))
    assert len(set(found)) == 5


def test_waived_finding_is_suppressed_with_its_reason_and_others_are_not() -> None:
    waived = UNTRAINED.model_copy(update={"waived": "trained by the customer"})
    first, second = run_of(report(UNSAFE, waived))["results"]
    assert first["suppressions"] == []
    assert second["suppressions"] == [{"kind": "external", "justification": "trained by the customer"}]


def test_reports_of_many_checkpoints_are_one_run_with_an_artifact_each() -> None:
    run = run_of(report(UNSAFE), report(UNSAFE, path="other.pt"), exit_code=1)
    assert [artifact["location"]["uri"] for artifact in run["artifacts"]] == ["models/ckpt.pt", "other.pt"]
    places = [result["locations"][0]["physicalLocation"]["artifactLocation"]["index"] for result in run["results"]]
    assert places == [0, 1]


def test_what_could_not_be_checked_is_a_notification_and_no_success() -> None:
    broken = Report(kind=Kind.VERIFY, subject="x.pt", path="x.pt", error="There is no manifest beside x.pt.")
    (invocation,) = run_of(broken)["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 2
    assert "no manifest" in invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_exit_code_is_the_one_that_the_process_ends_with() -> None:
    assert run_of(report(UNSAFE), exit_code=0)["invocations"][0]["exitCode"] == 0


@given(hostile=st.text(st.characters(), min_size=1, max_size=60))
def test_any_text_out_of_a_file_is_escaped(hostile: str) -> None:
    item = finding("F010", hostile, where=hostile, remedy=hostile).model_copy(update={"waived": hostile})
    broken = Report(subject=hostile, path=hostile.replace("\x00", ""), error=hostile)
    text = sarif.render([report(item, path=None), broken], root=ROOT)
    log = json.loads(text)
    VALIDATOR.validate(log)
    assert all(character.isprintable() or character == "\n" for character in text)
    for message in (log["runs"][0]["results"][0]["message"]["text"], *strings(log["runs"][0]["results"])):
        assert message.isprintable()


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in items for text in strings(item)]

"""Reports as JUnit XML: valid by the schema that Jenkins publishes, with nothing in it that XML does not allow."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import xmlschema
from hypothesis import given
from hypothesis import strategies as st

from manifest.rendering import junit
from manifest.schema.report import Finding, Outcome, Report, Rung
from manifest.schema.rules import finding

SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "data" / "junit-10.xsd")


def rung(outcome: Outcome, *findings: Finding, name: str = "format", seconds: float = 0.25) -> Rung:
    return Rung(name=name, outcome=outcome, reason="looked at", seconds=seconds, findings=list(findings))


def suites(*reports: Report) -> ElementTree.Element:
    text = junit.render(reports)
    SCHEMA.validate(text)
    return ElementTree.fromstring(text)


def only(element: ElementTree.Element, path: str) -> ElementTree.Element:
    (found,) = element.iterfind(path)
    return found


UNSAFE = finding("F010", "The pickle names posix.system.", where="posix.system")
UNSIGNED = finding("T002", "ckpt.pt is not signed.")


def report(*rungs: Rung, **fields: Any) -> Report:
    return Report(subject="ckpt.pt", path="models/ckpt.pt", rungs=list(rungs), **fields)


def test_suite_is_a_checkpoint_and_a_case_is_a_rung() -> None:
    content = report(rung(Outcome.PASS), rung(Outcome.SKIP, name="golden"), rung(Outcome.FAIL, UNSAFE, name="safety"))
    root = suites(content)
    suite = only(root, "testsuite")
    assert suite.attrib == {
        "name": "models/ckpt.pt",
        "tests": "3",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
        "time": "0.750",
    }
    names = [case.get("name") for case in suite.iterfind("testcase")]
    assert names == ["verify: format", "verify: golden", "verify: safety"]
    assert {case.get("classname") for case in suite.iterfind("testcase")} == {"models/ckpt.pt"}


def test_failure_says_what_is_wrong_and_what_to_do() -> None:
    failure = only(suites(report(rung(Outcome.FAIL, UNSAFE))), "testsuite/testcase/failure")
    assert failure.get("type") == "F010"
    assert failure.get("message") == UNSAFE.message
    assert failure.text is not None
    assert UNSAFE.remedy in failure.text


def test_skipped_rung_says_why() -> None:
    assert only(suites(report(rung(Outcome.SKIP))), "testsuite/testcase/skipped").get("message") == "looked at"


def test_warning_passes_and_is_output() -> None:
    root = suites(report(rung(Outcome.WARN, UNSIGNED)))
    assert root.get("failures") == "0"
    assert "warning T002 unsigned: ckpt.pt is not signed." in (only(root, "testsuite/testcase/system-out").text or "")


def test_waived_finding_is_output_with_its_reason() -> None:
    waived = UNSAFE.model_copy(update={"waived": "we wrote it"})
    root = suites(report(rung(Outcome.PASS, waived)))
    assert not list(root.iter("failure"))
    assert "waived: we wrote it" in (only(root, "testsuite/testcase/system-out").text or "")


def test_what_could_not_be_checked_is_an_error() -> None:
    root = suites(Report(subject="x.pt", path="x.pt", error="There is no file x.pt."))
    assert (root.get("tests"), root.get("errors")) == ("1", "1")
    assert only(root, "testsuite/testcase/error").get("message") == "There is no file x.pt."


def test_reports_of_many_checkpoints_are_added_up() -> None:
    root = suites(report(rung(Outcome.FAIL, UNSAFE)), report(rung(Outcome.PASS)))
    assert len(root) == 2
    assert (root.get("tests"), root.get("failures"), root.get("time")) == ("2", "1", "0.500")


@given(hostile=st.text(st.characters(), min_size=1, max_size=60))
def test_any_text_out_of_a_file_is_escaped(hostile: str) -> None:
    item = finding("F010", hostile, where=hostile, remedy=hostile)
    content = Report(
        subject=hostile,
        error=hostile,
        rungs=[rung(Outcome.FAIL, item), rung(Outcome.WARN, item.model_copy(update={"waived": hostile}))],
    )
    root = suites(content)
    assert junit.render([content]).isascii()
    for element in root.iter():
        for text in (*element.attrib.values(), element.text or "", element.tail or ""):
            assert all(character.isprintable() or character == "\n" for character in text)

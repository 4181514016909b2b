"""Reports as JUnit XML: a suite for each checkpoint, a case for each rung.

What counts is the form that Jenkins and GitLab read and whose schema Jenkins' xUnit plugin has. It leaves no room for
warnings, so these, and what is waived, are output of a case that passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from manifest.escaping import printable
from manifest.schema.report import Finding, Outcome, Report, Rung, Severity

_LONGEST = 1000


def render(reports: Sequence[Report]) -> str:
    """One XML document: characters that XML does not allow are escaped as everywhere, and all but ASCII is numbers."""
    root = ElementTree.Element("testsuites", name="manifest")
    suites = [_suite(report) for report in reports]
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.set("time", _seconds(rung for report in reports for rung in report.rungs))
    root.extend(suites)
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="us-ascii")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body.decode("ascii")}'


def _suite(report: Report) -> ElementTree.Element:
    name = printable(report.path or report.subject, _LONGEST)
    outcomes = [rung.outcome for rung in report.rungs]
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(outcomes) + (report.error is not None)),
        failures=str(outcomes.count(Outcome.FAIL)),
        errors=str(int(report.error is not None)),
        skipped=str(outcomes.count(Outcome.SKIP)),
        time=_seconds(report.rungs),
    )
    suite.extend(_case(rung, name, report) for rung in report.rungs)
    if report.error is not None:
        case = ElementTree.SubElement(suite, "testcase", name=str(report.kind), classname=name, time="0.000")
        ElementTree.SubElement(case, "error", type="unchecked", message=printable(report.error, _LONGEST))
    return suite


def _case(rung: Rung, suite: str, report: Report) -> ElementTree.Element:
    name = f"{report.kind}: {printable(rung.name, 200)}"
    case = ElementTree.Element("testcase", name=name, classname=suite, time=_seconds([rung]))
    reason = printable(rung.reason, _LONGEST)
    errors = [item for item in rung.findings if item.severity is Severity.ERROR and item.waived is None]
    others = [item for item in rung.findings if item not in errors]
    if rung.outcome is Outcome.FAIL:
        rules = ", ".join(dict.fromkeys(item.rule for item in errors))
        message = printable(errors[0].message, _LONGEST) if errors else reason
        failure = ElementTree.SubElement(case, "failure", type=rules, message=message)
        failure.text = "\n".join(map(_sentence, errors))
    elif rung.outcome is Outcome.SKIP:
        ElementTree.SubElement(case, "skipped", message=reason)
    if others:
        ElementTree.SubElement(case, "system-out").text = "\n".join(map(_sentence, others))
    return case


def _sentence(item: Finding) -> str:
    place = f" {printable(item.where, 200)}" if item.where else ""
    end = f"waived: {item.waived}" if item.waived is not None else f"→ {item.remedy}"
    head = f"{item.severity} {item.rule} {item.name}{place}:"
    return f"{head} {printable(item.message, _LONGEST)} {printable(end, _LONGEST)}"


def _seconds(rungs: Iterable[Rung]) -> str:
    return f"{sum(rung.seconds for rung in rungs):.3f}"

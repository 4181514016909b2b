"""Whatever text a file holds, every format of a report takes it, and none passes on what moves a cursor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from manifest.cli.options import Format
from manifest.cli.printing import finish
from manifest.schema.report import ComponentVerdict, Kind, Outcome, Report, Rung
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Status, Training

ANY = st.text(st.one_of(st.characters(exclude_categories=[]), st.sampled_from("\ud800\udc41\udfff\x1b\x00\u202e\r\n")))
FINDINGS = st.builds(
    lambda message, where, remedy, waived, names: finding(
        "F010", message, where=where, remedy=remedy or None, names=names
    ).model_copy(update={"waived": waived}),
    ANY,
    st.none() | ANY,
    ANY,
    st.none() | ANY,
    st.lists(ANY, max_size=2),
)
RUNGS = st.builds(
    lambda name, outcome, reason, found: Rung(name=name, outcome=outcome, reason=reason, seconds=0.1, findings=found),
    ANY,
    st.sampled_from(Outcome),
    ANY,
    st.lists(FINDINGS, max_size=2),
)
COMPONENTS = st.builds(lambda role: ComponentVerdict(role=role, status=Status.COMPLETE, training=Training.TRAINED), ANY)
REPORTS = st.builds(
    Report,
    kind=st.sampled_from(Kind),
    subject=ANY,
    path=st.none() | ANY | ANY.map("s3://{}".format),
    error=st.none() | ANY,
    container=st.none() | ANY,
    safety=st.none() | st.sampled_from(["safe", "unsafe", "unknown"]),
    rungs=st.lists(RUNGS, max_size=2),
    components=st.lists(COMPONENTS, max_size=2),
)


def printed(reports: list[Report], format: Format, place: Path, *, together: bool) -> str:
    """What a command writes into a file."""
    options: Any = {"format": format, "output": place, "quiet": False, "color": True}
    with pytest.raises(typer.Exit):
        finish(reports if together else reports[0], **options)
    return place.read_bytes().decode("utf-8")


@pytest.mark.parametrize("format", list(Format))
@given(reports=st.lists(REPORTS, min_size=1, max_size=2), together=st.booleans())
def test_report_when_of_any_text_then_is_written_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, format: Format, reports: list[Report], together: bool
) -> None:
    text = printed(reports, format, tmp_path_factory.getbasetemp() / f"any.{format}", together=together)
    assert all(each.isprintable() or each == "\n" for each in text)
    if format is Format.JUNIT:
        assert ElementTree.fromstring(text).tag == "testsuites"
    elif format in (Format.JSON, Format.SARIF):
        assert json.loads(text)
    elif format is Format.HTML:
        assert text.count("<script>") == text.count("</script>") == 1

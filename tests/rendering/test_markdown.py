"""Markdown: reports for a pull request, and the section of a model card, read by a renderer of CommonMark."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import manifest
from manifest.rendering import markdown
from manifest.rendering.markdown import BEGIN, END, with_card
from manifest.schema.document import Manifest
from manifest.schema.report import Finding, Kind, Outcome, Report, Rung, Severity
from manifest.storage.transaction import read_manifest

OURS = {"p", "h2", "h3", "ul", "li", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td"}
OURS |= {"details", "summary"}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[here](javascript:alert(1))",
    "![x](https://host/x.png)",
    "| a | b |",
    "`a` <b>",
    "``` <b>",
    "**bold** _it_ ~~no~~ # head",
    "@everyone #12 https://host www.host.org a@host.org",
    "</code></details><h1>",
    "&lt;b&gt; &amp;",
    "a\n\n# b\r\x1b[31m\u202e",
    "<!-- /manifest -->",
)


class Page(HTMLParser):
    """The elements of a page, and what a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.seen = ""
        self.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        assert not attributes, (tag, attributes)
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.seen += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def report_of(text: str) -> Report:
    found = Finding(
        rule="C001",
        name=text,
        severity=Severity.ERROR,
        message=text,
        where=text,
        remedy=text,
        evidence={"diff": [text]},
    )
    waived = found.model_copy(update={"severity": Severity.WARNING, "waived": text})
    rung = Rung(name=text, outcome=Outcome.FAIL, reason=text, seconds=0.1, findings=[found, waived])
    return Report(kind=Kind.VERIFY, subject=text, path=text, rungs=[rung])


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_file_is_text(text: str) -> None:
    for content in (report_of(text), Report(subject=text, error=text)):
        written = markdown.reports([content, content])
        page = Page(written)
        assert page.elements <= OURS
        assert "@" not in written
        shown = "".join(part for part in text.partition("\n")[0] if part != "`")
        assert shown in page.seen.replace("`", "")


@given(st.text(max_size=60))
def test_any_text_is_text(text: str) -> None:
    assert Page(markdown.reports([report_of(text)])).elements <= OURS


def test_text_between_backquotes_is_escaped_once() -> None:
    words = {"name": "n", "message": "It names `a\x1bb` and c\x1bd.", "remedy": "r"}
    rung = Rung(name="format", outcome=Outcome.FAIL, reason="r", seconds=0.1)
    rung.findings.append(Finding(rule="X1", severity=Severity.ERROR, **words))
    page = markdown.reports([Report(kind=Kind.VERIFY, subject="e\x1bf", rungs=[rung])])
    assert "It names <code>a&#92;x1bb</code> and c\\\\x1bd." in page
    assert "<code>e&#92;x1bf</code> fails" in page


def test_report_has_its_verdict_first_and_its_rungs_to_unfold(digits: ModuleType) -> None:
    report = manifest.verify(digits.WEIGHTS, fast=True)
    written = markdown.reports([report])
    assert written.startswith("### ! <code>")
    page = Page(written)
    assert {"h3", "details", "summary", "table"} <= page.elements
    for rung in report.rungs:
        assert rung.name in page.seen
    assert sum(written.count(f"\n| {mark} |") for mark in "✔!–") == len(report.rungs)


def test_several_begin_with_how_many_pass(digits: ModuleType) -> None:
    report = manifest.verify(digits.WEIGHTS, fast=True)
    failed = report.model_copy(update={"error": "It cannot be read."})
    assert markdown.reports([report, failed]).startswith("**1 of 2 pass**\n\n### !")


@pytest.fixture(scope="module")
def recorded(digits: ModuleType) -> Manifest:
    return read_manifest(Path(digits.WEIGHTS))


def test_card_says_what_the_manifest_says(recorded: Manifest) -> None:
    page = Page(markdown.card(recorded))
    assert page.elements <= OURS
    for text in (recorded.weights.digest, "digits-clip", "vision tower", "manifest verify digits_clip.safetensors"):
        assert text in page.seen


@pytest.mark.parametrize("text", HOSTILE)
def test_card_of_a_hostile_manifest_is_text(text: str, recorded: Manifest) -> None:
    architecture = recorded.architecture.model_copy(
        update={"name": text, "class_name": text, "arguments": {text: text}}
    )
    section = markdown.card(recorded.model_copy(update={"architecture": architecture}), text)
    assert Page(section).elements <= OURS
    assert END not in section.splitlines()


def test_section_is_put_in_the_place_of_the_old_one() -> None:
    page = with_card("# Model\n\nWords.\n", "one")
    assert page == f"# Model\n\nWords.\n\n{BEGIN}\none\n{END}\n"
    page += "More.\n"
    assert with_card(page, "two") == page.replace("one", "two")
    assert with_card("", "one") == f"{BEGIN}\none\n{END}\n"


@pytest.mark.parametrize("page", [BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_card_with_other_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="expected once each"):
        with_card(page, "one")

"""What Python shows of a manifest and of a report: a line, what the command prints, and a part of a notebook."""

from __future__ import annotations

import copy
import pickle
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

import manifest
from manifest.schema.document import Manifest, parse, serialize
from manifest.schema.report import Report
from manifest.storage.transaction import read_manifest

HOSTILE = "\x1b[2J<script>alert(1)</script>\nb"


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        del attributes
        self.found.add(tag)


@pytest.fixture(scope="module")
def recorded(digits: ModuleType) -> Manifest:
    return read_manifest(Path(digits.WEIGHTS))


def test_line_of_a_manifest(recorded: Manifest) -> None:
    assert repr(recorded) == (
        "<Manifest of digits_clip.safetensors: open_clip digits-clip, 3,484,545 parameters, not signed>"
    )
    signed = recorded.model_copy(update={"signer": "ab" * 32})
    assert repr(signed).endswith("signed by abababababababab>")


def test_line_of_a_report(digits: ModuleType, tmp_path: Path) -> None:
    report = manifest.verify(digits.WEIGHTS, fast=True)
    assert repr(report) == "<Report of verify: digits_clip.safetensors passes>"
    broken = tmp_path / "a.safetensors"
    broken.write_bytes(b"broken")
    assert repr(manifest.audit(broken)) == "<Report of audit: a.safetensors fails: format>"
    assert repr(Report(subject="a.pt", error="No.")) == "<Report of verify: a.pt could not be checked>"


def test_text_is_what_the_command_prints(recorded: Manifest, digits: ModuleType) -> None:
    shown = str(recorded).splitlines()
    assert shown[0].startswith("checkpoint    digits_clip.safetensors: safetensors, ")
    assert not any(line.endswith(" ") for line in shown)
    report = str(manifest.verify(digits.WEIGHTS, fast=True))
    assert report.startswith("✔ digits_clip.safetensors is consistent, by a manifest that nobody signed")
    assert "warning T002 unsigned" in report


@pytest.mark.parametrize("document", ["manifest", "report"])
def test_hostile_names_reach_neither_terminal_nor_page(document: str, recorded: Manifest) -> None:
    architecture = recorded.architecture.model_copy(update={"name": HOSTILE, "class_name": HOSTILE})
    shown: Manifest | Report = Report(subject=HOSTILE, error=HOSTILE)
    if document == "manifest":
        shown = recorded.model_copy(update={"architecture": architecture})
    for text in (repr(shown), str(shown)):
        assert "\x1b" not in text
    assert "\n" not in repr(shown)
    assert Elements(shown._repr_html_()).found <= {"pre", "span"}


def test_documents_are_copied_pickled_and_compared_as_before(recorded: Manifest) -> None:
    again = pickle.loads(pickle.dumps(recorded))
    assert again == recorded == copy.deepcopy(recorded)
    assert parse(serialize(recorded)) == recorded

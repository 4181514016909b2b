"""The page of a report: what is in it, and what a browser makes of it, where one is at hand."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import manifest
from manifest.rendering import html
from manifest.schema.document import Manifest
from manifest.schema.report import Finding, Kind, Outcome, Report, Rung, Severity
from manifest.storage.transaction import read_manifest
from tests.rendering.test_markdown import HOSTILE

BROWSER = shutil.which("chromium") and shutil.which("chromedriver") and find_spec("selenium")


class Page(HTMLParser):
    """Elements with their attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.seen = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.seen += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_of(text: str) -> Report:
    def found(severity: Severity, rung: str) -> Finding:
        words = dict.fromkeys(("name", "message", "where", "remedy"), text)
        layers = {"layers": {text: 0.5, f"{text}.1": None}, "layer_floors": {text: 1e-6}}
        return Finding(rule=f"X{rung}", severity=severity, evidence={"diff": [text], **layers}, **words)

    rungs = [
        Rung(name="format", outcome=Outcome.FAIL, reason=text, seconds=0.1, findings=[found(Severity.ERROR, "1")]),
        Rung(name="golden", outcome=Outcome.WARN, reason=text, seconds=0.1, findings=[found(Severity.WARNING, "2")]),
    ]
    return Report(kind=Kind.VERIFY, subject=text, path=text, rungs=rungs)


@pytest.fixture(scope="module")
def recorded(digits: ModuleType) -> Manifest:
    return read_manifest(Path(digits.WEIGHTS))


def hostile_manifest(recorded: Manifest, text: str) -> Manifest:
    names = {"name": text, "class_name": text, "arguments": {text: text}}
    tensors = [each.model_copy(update={"name": f"{text}{each.name}"}) for each in recorded.weights.tensors]
    return recorded.model_copy(
        update={
            "architecture": recorded.architecture.model_copy(update=names),
            "weights": recorded.weights.model_copy(update={"tensors": tensors}),
        }
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_a_file_is_text(text: str, recorded: Manifest) -> None:
    plain = Page(html.render([report_of("a")], {"a": hostile_manifest(recorded, "a")}))
    page = Page(html.render([report_of(text)], {text: hostile_manifest(recorded, text)}))
    assert [tag for tag, _ in page.elements if tag != "code"] == [tag for tag, _ in plain.elements if tag != "code"]
    assert not any(name.startswith("on") or name in ("src", "style") for _, some in page.elements for name in some)


def test_page_needs_no_network_and_allows_no_other_script(digits: ModuleType, recorded: Manifest) -> None:
    text = html.render([manifest.verify(digits.WEIGHTS, fast=True)], {str(digits.WEIGHTS): recorded})
    page = Page(text)
    policy = next(each["content"] or "" for each in page.of("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"(?:https?:|url\(|@import|//\w)", text.replace(policy, ""))
    assert not page.of("link")


def test_page_says_what_the_report_says(digits: ModuleType, recorded: Manifest) -> None:
    report = manifest.verify(digits.WEIGHTS, fast=True)
    page = Page(html.render([report], {str(report.path): recorded}))
    assert page.seen.index("is consistent, by a manifest that nobody signed") < page.seen.index("integrity")
    for item in report.findings():
        assert item.rule in page.seen
    for tensor in recorded.weights.tensors:
        assert tensor.name in page.seen
    assert "vision tower" in page.seen
    widths = [float(each["width"] or 0) for each in page.of("rect") if each.get("height") == "40"]
    assert len(widths) == len(recorded.components)
    assert sum(widths) == pytest.approx(1000, abs=1)


def test_page_shows_how_far_outputs_move_and_what_the_model_answers(digits: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    saved = manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path, floor="none")
    assert saved is not None
    found = Finding(
        rule="G001", name="n", severity=Severity.ERROR, message="m", remedy="r", evidence={"distance": 1e-4}
    )
    rung = Rung(name="golden", outcome=Outcome.FAIL, reason="different", seconds=0.1, findings=[found])
    page = Page(html.render([Report(subject="a", path="a", rungs=[rung])], {"a": saved}))
    places = {str(each["class"]): float(each["width"] or 0) for each in page.of("rect") if each.get("class")}
    assert places["found"] == pytest.approx(50)  # in the middle of powers of ten from -9 to 1
    assert places["contrast"] > places["found"]
    for prompt in saved.golden[0].reading[0].prompts:
        assert prompt in page.seen


@pytest.fixture(scope="module")
def departing(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A verification of a model that is rebuilt with another activation."""
    path = tmp_path_factory.mktemp("departing") / "a.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path, floor="none")
    sidecar = Path(f"{path}.manifest.json")
    content = json.loads(sidecar.read_bytes())
    content["architecture"]["config"]["quick_gelu"] = False
    sidecar.write_text(json.dumps(content), encoding="utf-8")
    return manifest.verify(path)


def test_page_shows_how_far_each_layer_departs(departing: Report) -> None:
    (found,) = (item for item in departing.findings() if item.evidence.get("layers"))
    layers, floors = found.evidence["layers"], found.evidence["layer_floors"]
    assert (
        list(layers)
        == list(floors)
        == [layer.module for layer in read_manifest(Path(str(departing.path))).golden[0].layers]
    )
    first = next(name for name, distance in layers.items() if distance > floors[name])
    assert f"The first layer to depart is {first}, by {layers[first]:.1e}" in found.message
    page = Page(html.render([departing], {}))
    assert re.search(rf"{re.escape(first)} departs first\s*{layers[first]:.1e}\s*{floors[first]:.1e}", page.seen)
    heights = [float(each["height"] or 0) for each in page.of("rect") if each.get("x") and each.get("class") != "line"]
    expected = [10 * (max(math.log10(each or 1e-9), -9) + 9) for each in layers.values()]
    assert heights[: len(layers)] == pytest.approx(expected, abs=0.01)
    kinds = [str(each["class"]) for each in page.of("tr") if each.get("class") in ("explained", "first", "departs")]
    assert kinds.count("first") == 1
    assert kinds.index("first") == list(layers).index(first)
    assert {kind for kind, distance in zip(kinds, layers.values(), strict=True) if not distance} == {"explained"}


def test_page_shows_layers_of_two_models_without_a_floor(digits: ModuleType, tmp_path: Path) -> None:
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    model.visual.transformer.resblocks[2].mlp.c_fc.weight.data[2, 3] += 0.1
    manifest.save(model, tmp_path / "next.safetensors", golden=False)
    seen = Page(html.render([manifest.diff(digits.WEIGHTS, tmp_path / "next.safetensors", outputs=True)], {})).seen
    assert "visual.transformer.resblocks.2 departs first" in seen
    assert "arithmetic explains" not in seen


def test_page_of_several_begins_with_all_of_them(digits: ModuleType, tmp_path: Path) -> None:
    passing = manifest.verify(digits.WEIGHTS, fast=True)
    failing = Report(subject="b.pt", path=str(tmp_path / "b.pt"), error="It cannot be read.")
    page = Page(html.render([passing, failing], {}))
    assert page.seen.index("1 of 2 pass") < page.seen.index("What was checked")
    targets = {each["id"] for _, each in page.elements if each.get("id")}
    assert {str(each["href"]).removeprefix("#") for each in page.of("a")} <= targets


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not BROWSER:
        pytest.skip("chromium, chromedriver and selenium are not all installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.parametrize("text", HOSTILE)
def test_browser_runs_nothing_of_a_file(text: str, browser: Any, recorded: Manifest, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.render([report_of(text)], {text: hostile_manifest(recorded, text)}), encoding="utf-8")
    browser.get(page.as_uri())
    assert browser.find_element("css selector", "h2").is_displayed()
    assert browser.get_log("browser") == []
    with pytest.raises(Exception, match="no such alert"):
        browser.switch_to.alert.accept()


@pytest.mark.parametrize("width", [400, 1000])
def test_browser_draws_a_bar_for_each_layer(width: int, browser: Any, departing: Report, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.render([departing], {}), encoding="utf-8")
    browser.set_window_size(width, 1000)
    browser.get(page.as_uri())
    chart = browser.find_element("css selector", ".layers .chart svg")
    assert chart.get_attribute("role") == "img"
    assert chart.size["height"] == pytest.approx(128, abs=1)
    assert chart.size["width"] > width / 2
    bars = chart.find_elements("css selector", ".explained, .first, .departs")
    rows = browser.find_elements("css selector", ".layers tbody tr")
    assert len(rows) == len([bar for bar in bars if bar.tag_name == "rect"])
    assert all(row.is_displayed() for row in rows)
    (first,) = browser.find_elements("css selector", ".layers tbody tr.first")
    assert "departs first" in first.text
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.get_log("browser") == []


def test_browser_filters_findings_and_searches_tensors(browser: Any, recorded: Manifest, tmp_path: Path) -> None:
    from selenium.webdriver.support.select import Select

    page = tmp_path / "page.html"
    page.write_text(html.render([report_of("a")], {"a": recorded}), encoding="utf-8")
    browser.get(page.as_uri())
    items = browser.find_elements("css selector", ".findings li")
    assert [item.is_displayed() for item in items] == [True, True]
    severity, rung = browser.find_elements("css selector", ".filters select")
    Select(severity).select_by_visible_text("warning")
    assert [item.is_displayed() for item in items] == [False, True]
    Select(severity).select_by_visible_text("all")
    Select(rung).select_by_visible_text("format")
    assert [item.is_displayed() for item in items] == [True, False]
    browser.find_element("css selector", ".tensors summary").click()
    browser.find_element("css selector", ".tensors input").send_keys("VISUAL mlp c_fc.bias")
    shown = [row.text for row in browser.find_elements("css selector", ".tensors tbody tr") if row.is_displayed()]
    assert shown
    assert all("visual" in row and "c_fc.bias" in row for row in shown)
    assert browser.find_element("css selector", ".tensors [role=status]").text == f"{len(shown)} of 86"
    assert browser.get_log("browser") == []

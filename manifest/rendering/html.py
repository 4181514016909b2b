"""Reports as a page: one file that needs no network, to be read in any browser or printed.

Everything that comes out of a file is text: the template escapes it, and the page forbids every script and style but
its own by their hashes. Plots are boxes whose sizes are numbers computed here.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from manifest.escaping import printable
from manifest.rendering.facts import facts
from manifest.rendering.verdicts import MARKS, count_of, mark_of, sentence_of, shown_outcome, weight_of, with_code
from manifest.schema.document import Component, Golden, Manifest
from manifest.schema.report import ComponentVerdict, Finding, Kind, Outcome, Report
from manifest.schema.vocabulary import Status, Training, component_tensors, role_words

_LEAST, _MOST = -9.0, 1.0
"""Powers of ten at the ends of the axis of distances."""
_MOST_TENSORS = 20_000
_WORDS = {Outcome.PASS: "passed", Outcome.WARN: "warns", Outcome.FAIL: "failed", Outcome.SKIP: "not checked"}


@dataclass(frozen=True)
class _Part:
    """A component in the picture of a model."""

    role: str
    state: str
    share: float
    parameters: int
    tensors: str


@dataclass(frozen=True)
class _Mark:
    """A distance on the axis."""

    kind: str
    words: str
    value: float

    @property
    def place(self) -> float:
        return _place(self.value)


@dataclass(frozen=True)
class _Layer:
    """How far what one layer gives is off.

    Attributes:
        name: Its path in the model.
        kind: `explained` by arithmetic, `first` to depart, or `departs` after it.
        distance: Relative; None where one of the two is not finite, or the layer did not run.
        floor: How far arithmetic explains it.
    """

    name: str
    kind: str
    distance: float | None
    floor: float

    @property
    def place(self) -> float:
        return 100.0 if self.distance is None else _place(self.distance)

    @property
    def floor_place(self) -> float:
        return _place(self.floor)

    @property
    def words(self) -> str:
        return "none" if self.distance is None else f"{self.distance:.1e}"


def _place(distance: float) -> float:
    """Percent of the axis from its lower end."""
    power = math.log10(distance) if distance > 0 else _LEAST
    return round(100 * (min(max(power, _LEAST), _MOST) - _LEAST) / (_MOST - _LEAST), 2)


def render(reports: Sequence[Report], manifests: Mapping[str, Manifest]) -> str:
    """The page.

    Args:
        reports: One or more.
        manifests: Of the checkpoints that have one, by the path in their report.
    """
    subject = printable(reports[0].subject, 200) if len(reports) == 1 else f"{len(reports)} checkpoints"
    style, script = _asset("report.css"), _asset("report.js")
    page: str = _template().render(
        title=f"manifest {reports[0].kind if reports else ''}: {subject}",
        several=count_of(reports) if len(reports) != 1 else "",
        reports=[_shown(report, manifests.get(report.path or "")) for report in reports],
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'",
    )
    return page


def _shown(report: Report, manifest: Manifest | None) -> dict[str, Any]:
    outcome = Outcome.FAIL if report.error is not None else mark_of(report)
    findings = [(rung.name, item) for rung in report.rungs for item in rung.findings]
    return {
        "name": printable(report.path or report.subject, 300),
        "outcome": str(outcome),
        "mark": MARKS[outcome],
        "verdict": "could not be checked" if report.error is not None else sentence_of(report)[0],
        "error": None if report.error is None else printable(report.error, 2000),
        "rungs": [
            {
                "name": printable(rung.name, 60),
                "outcome": str(shown_outcome(rung)),
                "mark": MARKS[shown_outcome(rung)],
                "word": _WORDS[shown_outcome(rung)],
                "seconds": f"{rung.seconds:.2f} s" if rung.outcome is not Outcome.SKIP else "",
                "reason": printable(rung.reason, 1000),
            }
            for rung in report.rungs
        ],
        "findings": [_finding(name, item) for name, item in sorted(findings, key=lambda each: weight_of(each[1]))],
        "compared": report.kind is Kind.DIFF,
        "parts": (parts := _parts(report, manifest)),
        "drawn": list(_drawn(parts)),
        "marks": _distances(report, manifest),
        "layers": list(_layers(report)),
        "readings": _readings(manifest),
        "facts": {} if manifest is None else {name: printable(text, 600) for name, text in facts(manifest).items()},
        "tensors": [] if manifest is None else list(_tensors(manifest)),
        "count": 0 if manifest is None else len(manifest.weights.tensors),
    }


def _finding(rung: str, item: Finding) -> dict[str, Any]:
    return {
        "rung": printable(rung, 60),
        "severity": str(item.severity),
        "rule": printable(item.rule, 20),
        "name": printable(item.name, 60),
        "where": printable(item.where or "", 300),
        "message": with_code(item.message, 2000),
        "remedy": with_code(item.remedy, 2000),
        "waived": None if item.waived is None else printable(item.waived, 1000),
        "lines": [printable(str(line), 300) for line in item.evidence.get("diff", ())],
    }


def _parts(report: Report, manifest: Manifest | None) -> list[_Part]:
    """The components, by their share of the parameters where a manifest lists them."""
    if manifest is None:
        share = 1 / max(len(report.components), 1)
        return [
            _Part(printable(role_words(part.role)), _state(part.status, part.training), share, 0, "")
            for part in report.components
        ]
    told: dict[str, Component | ComponentVerdict] = {part.role: part for part in report.components}
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in manifest.weights.tensors if tensor.alias is None}
    counted = {
        part.role: sum(sizes.get(name, 0) for name in component_tensors(part.prefixes, list(sizes)))
        for part in manifest.components
    }
    whole = sum(counted.values()) or 1
    return [
        _Part(
            printable(role_words(part.role)),
            _state(now.status, now.training),
            counted[part.role] / whole,
            counted[part.role],
            f"{part.present}/{part.expected}",
        )
        for part, now in ((part, told.get(part.role, part)) for part in manifest.components)
    ]


def _drawn(parts: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    """The parts side by side, a thousand wide in all; none too narrow to be seen."""
    widths = [max(part.share, 0.004) for part in parts]
    place = 0.0
    for part, width in zip(parts, widths, strict=True):
        share = 1000 * width / sum(widths)
        words = f"{part.state}, {100 * part.share:.1f}% of the parameters" if part.parameters else part.state
        state = part.state.replace(" ", "-")
        yield {"role": part.role, "state": state, "words": words, "x": round(place, 1), "width": round(share, 1)}
        place += share


def _state(status: Status, training: Training) -> str:
    if status is not Status.COMPLETE:
        return str(status)
    return "complete" if training is Training.UNKNOWN else training.words


def _distances(report: Report, manifest: Manifest | None) -> list[_Mark]:
    """What arithmetic moves golden outputs by, what wrong architectures do, and what was found."""
    recorded: Sequence[Golden] = () if manifest is None else manifest.golden[:1]
    marks = [_Mark("floor", f"arithmetic: {name}", value) for each in recorded for name, value in each.floor.items()]
    marks += [_Mark("contrast", f"wrong: {name}", value) for each in recorded for name, value in each.contrast.items()]
    for item in report.findings():
        value = item.evidence.get("distance")
        if isinstance(value, int | float) and math.isfinite(value):
            marks.append(_Mark("found", "found here", float(value)))
    known = [mark for mark in marks if math.isfinite(mark.value)]
    return [_Mark(mark.kind, printable(mark.words), mark.value) for mark in known] if recorded else []


def _layers(report: Report) -> Iterator[_Layer]:
    """The layers of the first finding that has some, in the order of the model."""
    evidence = next((item.evidence for item in report.findings() if item.evidence.get("layers")), {})
    floors = evidence.get("layer_floors", {})
    has_departed = False
    for name, distance in evidence.get("layers", {}).items():
        floor = floors.get(name, 0.0)
        kind = "explained" if distance is not None and distance <= floor else "departs" if has_departed else "first"
        has_departed = has_departed or kind == "first"
        yield _Layer(printable(name, 300), kind, distance, floor)


def _readings(manifest: Manifest | None) -> list[dict[str, Any]]:
    """What the model said of each photograph, the likeliest first."""
    recorded = [] if manifest is None else [each for golden in manifest.golden[:1] for each in golden.reading]
    return [
        {
            "image": printable(each.image),
            "prompts": [
                (printable(prompt), f"{100 * min(max(value, 0.0), 1.0):.1f}")
                for prompt, value in sorted(each.prompts.items(), key=lambda item: -item[1])[:5]
            ],
        }
        for each in recorded[:12]
        if each.prompts
    ]


def _tensors(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    for tensor in manifest.weights.tensors[:_MOST_TENSORS]:
        yield printable(tensor.name, 300), " × ".join(map(str, tensor.shape)) or "scalar", printable(tensor.dtype, 30)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return (files("manifest.rendering") / "page" / name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("report.html.jinja"))

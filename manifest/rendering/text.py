"""Reports and manifests for a person at a terminal.

The verdict comes first, then a line a rung, then each finding with its remedy on its own line. Everything that comes
out of a file is escaped, so that a name in a checkpoint cannot move the cursor or colour a lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifest.escaping import printable
from manifest.rendering.verdicts import MARKS, count_of, mark_of, sentence_of, shown_outcome, weight_of
from manifest.schema.report import Finding, Kind, Outcome, Report, Severity
from manifest.schema.vocabulary import Training, role_words

if TYPE_CHECKING:
    from manifest.schema.document import Manifest

_STYLES = {Outcome.PASS: "green", Outcome.WARN: "yellow", Outcome.FAIL: "bold red", Outcome.SKIP: "dim"}
_SEVERITIES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
_TRAINING_STYLES = {Training.INITIALISED: "bold red", Training.BARELY: "bold red", Training.UNKNOWN: "yellow"}

_WIDTH = 120
_MOST_NAMED = 3
"""Checkpoints that are named beside a finding of several."""


def plain(content: Report | Manifest) -> str:
    """What a terminal of a usual width shows, without colours."""
    page = StringIO()
    _show(content, Console(file=page, no_color=True, width=_WIDTH, highlight=False))
    return "\n".join(line.rstrip() for line in page.getvalue().rstrip().splitlines())


def html(content: Report | Manifest) -> str:
    """The same in its colours, for a notebook; everything in it is escaped."""
    console = Console(file=StringIO(), record=True, width=_WIDTH, highlight=False, force_terminal=True)
    _show(content, console)
    return console.export_html(inline_styles=True, code_format='<pre style="white-space: pre-wrap">{code}</pre>')


def _show(content: Report | Manifest, console: Console) -> None:
    console.print(report(content) if isinstance(content, Report) else show(content))


def report(content: Report) -> RenderableType:
    """A report: verdict, rungs, findings."""
    if content.error is not None:
        return _verdict(content)
    return Group(
        _verdict(content),
        _rungs(content),
        *(part for item in sorted(content.findings(), key=weight_of) for part in _finding(item)),
    )


def reports(contents: Sequence[Report], *, of: Sequence[Report] = ()) -> RenderableType:
    """Several reports: a line each, each kind of finding once, and how many are good of all that there are.

    Args:
        contents: Those that are shown.
        of: All that there are, where not all are shown.
    """
    everything = of or contents
    style = "bold green" if all(content.passed for content in everything) else "bold red"
    waived = sum(content.waived for content in everything if content.passed)
    summary = Text(count_of(everything) + (f", with {waived} waived" if waived else ""), style=style)
    return Group(*(_line(content) for content in contents), *_grouped(contents), Text(), summary)


def _line(content: Report) -> Table:
    """One of many reports in a line: whether something is wrong, what it is, and what is wrong or odd."""
    outcome = mark_of(content)
    style = _STYLES[outcome]
    line = Text(_name(content)).append(f"  {printable(_in_short(content), 1000)}", style="dim")
    loud = _loud(content)
    for code in dict.fromkeys(found.rule for found in loud):
        names = [found for found in loud if found.rule == code]
        line.append(f"  {code} {names[0].name}" + (f" × {len(names)}" if len(names) > 1 else ""), style=style)
    if content.waived:
        line.append(f"  {content.waived} waived", style=style)
    return _paragraph(_mark(outcome), line)


def _name(content: Report) -> str:
    return printable(content.path or content.subject, 200)


def _in_short(content: Report) -> str:
    if content.error is not None:
        return f"could not be checked: {content.error}"
    if content.kind is Kind.AUDIT:
        identity = next((rung.reason for rung in content.rungs if rung.name == "identity"), None)
        return identity or (content.rungs[0].reason if content.rungs else "")
    failed = [f"{rung.name} ({rung.reason})" for rung in content.rungs if rung.outcome is Outcome.FAIL]
    if content.kind is Kind.DIFF and failed:
        return f"differ: {', '.join(failed)}"
    return sentence_of(content, brief=True)[0]


def _loud(content: Report) -> list[Finding]:
    found = (item for item in content.findings() if item.severity is not Severity.NOTE and item.waived is None)
    return sorted(found, key=weight_of)


def _grouped(contents: Sequence[Report]) -> Iterator[RenderableType]:
    """Each rule that was broken, errors first: where, what is wrong in the first of them, and what to do."""
    found = [(item, content) for content in contents for item in _loud(content)]
    found.sort(key=lambda each: weight_of(each[0]))
    for severity, rule in dict.fromkeys((item.severity, item.rule) for item, _ in found):
        alike = [(item, content) for item, content in found if (item.severity, item.rule) == (severity, rule)]
        names = list(dict.fromkeys(_name(content) for _, content in alike))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        yield from _finding(alike[0][0], where=f"{', '.join(names[:_MOST_NAMED])}{more}")


def show(
    manifest: Manifest, name: str | None = None, other: str | None = None, *, written: bool = False
) -> RenderableType:
    """What a manifest says, without its lists of tensors and sketches.

    Args:
        manifest: The manifest.
        name: What the checkpoint beside it is called; as the manifest calls it when None.
        other: What shows that it is another file than the one described, if anything does.
        written: Whether the manifest was just written, of bytes that were read.
    """
    from manifest.rendering.facts import facts  # knows the whole manifest, which a report does without

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a digest is copied whole or not at all
    for what, value in facts(manifest, name, other, written=written).items():
        style = "bold red" if other is not None and what == "bytes" else ""
        table.add_row(Text(what, style="dim"), Text(printable(value, 400), style=style))
    return Group(table, Text(), _components(manifest), *_golden(manifest))


def line(manifest: Manifest, name: str, other: str | None = None) -> Table:
    """The same in a line, as one of several.

    Args:
        manifest: The manifest.
        name: How the checkpoint was named.
        other: What shows that it is another file than the one described, if anything does.
    """
    from manifest.rendering.facts import facts

    said = facts(manifest)
    words = f"{said['model']}, {manifest.weights.parameters:,} parameters; {said['training']}; "
    words += f"names the signer {manifest.signer[:16]}, not checked" if manifest.signer else "not signed"
    shown = Text(printable(name, 200)).append(f"  {printable(words, 400)}", style="dim")
    if other is None:
        return _paragraph("  ", shown)
    shown.append(f"; not these bytes: {printable(other, 400)}", style="bold red")
    return _paragraph(_mark(Outcome.FAIL), shown)


def line_of_file(name: str, words: str, warning: str = "") -> Table:
    """A checkpoint without a manifest in a line, as one of several.

    Args:
        name: How it was named.
        words: What is in it.
        warning: Why not to load it, if there is a reason.
    """
    shown = Text(printable(name, 200)).append(f"  {printable(words, 400)}", style="dim")
    if warning:
        shown.append(f"; {printable(warning, 400)}", style="bold red")
    return _paragraph("  ", shown.append("; no manifest", style="yellow"))


def not_shown(name: str, error: str) -> Table:
    """One of several of which nothing can be shown, in a line."""
    shown = Text(printable(name, 200)).append(f"  cannot be shown: {printable(error, 1000)}", style="bold red")
    return _paragraph(_mark(Outcome.FAIL), shown)


def _verdict(content: Report) -> Table:
    name = printable(content.subject, 200)
    if content.error is not None:
        error = printable(content.error, 1000)
        return _paragraph(_mark(Outcome.FAIL), Text(f"{name} could not be checked: {error}", style="bold red"))
    sentence, mark, style = sentence_of(content)
    return _paragraph(Text(mark, style=style), Text(f"{name} {sentence}", style=style))


def _rungs(content: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    for rung in content.rungs:
        outcome = shown_outcome(rung)
        spent = "" if rung.outcome is Outcome.SKIP else f"{rung.seconds:.2f} s"
        table.add_row(
            Text(f"  {MARKS[outcome]}", style=_STYLES[outcome]),
            Text(printable(rung.name, 60)),
            Text(spent, style="dim", justify="right"),
            Text(printable(rung.reason, 300)),
        )
    return table


def _finding(item: Finding, where: str = "") -> Iterator[RenderableType]:
    style = _SEVERITIES[item.severity] if item.waived is None else "dim"
    title = Text().append(f"{item.severity} {item.rule} {item.name}", style=style)
    if where or item.where:
        title.append(f"  {where or printable(item.where or '', 200)}", style="dim")
    yield Text()
    yield title
    yield _paragraph("  ", Text(printable(item.message, 1000)))
    for each in item.evidence.get("diff", ()):
        yield _paragraph("    ", Text(printable(str(each), 200), style="dim"))
    if item.waived is not None:
        yield _paragraph("  ", Text(f"waived: {printable(item.waived, 1000)}", style="italic"))
    else:
        yield _paragraph("  → ", Text(printable(item.remedy, 1000), style="italic"))


def _mark(outcome: Outcome) -> Text:
    return Text(f"{MARKS[outcome]} ", style=_STYLES[outcome])


def _paragraph(lead: str | Text, text: Text) -> Table:
    """Text behind what stands before its first line; the others are indented as far."""
    table = Table.grid()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(lead, text)
    return table


def _components(manifest: Manifest) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("component", "tensors", "status", "training"):
        table.add_column(column)
    for part in manifest.components:
        style = _TRAINING_STYLES.get(part.training, "")
        status = f"{part.status} by design" if part.by_design else str(part.status)
        row = (role_words(part.role), f"{part.present}/{part.expected}", status)
        table.add_row(*(Text(printable(cell)) for cell in row), Text(part.training.words, style=style))
    return table


def _golden(manifest: Manifest) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for golden in manifest.golden:
        measured = ", ".join(f"{name} {value:.1e}" for name, value in golden.floor.items())
        floor = f"arithmetic moves them by {measured}" if measured else "how far arithmetic moves them was not measured"
        contrast = ", ".join(f"{name} {value:.1e}" for name, value in golden.contrast.items()) or "none known"
        title = f"golden outputs of {golden.probe}: {', '.join(golden.outputs)}"
        parts.append(Text(printable(title, 300)))
        parts.append(_paragraph("  ", Text(f"{floor}; a wrong architecture by {printable(contrast, 300)}")))
        for reading in golden.reading:
            best = sorted(reading.prompts.items(), key=lambda item: -item[1])[:3]
            words = ", ".join(f"{prompt} {probability:.4f}" for prompt, probability in best)
            parts.append(_paragraph("  ", Text(f"{printable(reading.image)}: {printable(words, 300)}")))
    return [Text(), *parts] if parts else []

"""What is said of a report as a whole, in a mark and a sentence, wherever it is shown."""

from __future__ import annotations

from collections.abc import Sequence

from manifest.escaping import printable
from manifest.schema.report import Finding, Kind, Outcome, Report, Rung, Severity

MARKS = {Outcome.PASS: "✔", Outcome.WARN: "!", Outcome.FAIL: "✘", Outcome.SKIP: "–"}

_SAFETY = {
    "safe": ("is safe to load: nothing in it would run", "bold green"),
    "unsafe": ("is unsafe to load: it would run code", "bold red"),
    "unknown": ("is unsafe to load: it names classes that are not known to be harmless", "bold red"),
    "unreadable": ("cannot be read, so it is not called safe", "bold red"),
}
_VERDICTS = {
    Kind.VERIFY: ("passes", "fails"),
    Kind.COMPARE: ("says the same", "says something else"),
    Kind.DIAGNOSE: ("gives these numbers", "gives other numbers"),
    Kind.DIFF: ("are the same", "differ"),
    Kind.DOCTOR: ("gives the same answers again", "gives other answers"),
}


def sentence_of(content: Report, *, brief: bool = False) -> tuple[str, str, str]:
    """What is said of a checkpoint behind its name, the mark before it, and the style of both.

    Args:
        content: The report.
        brief: Whether rungs that warn go without mention.
    """
    failed = [printable(rung.name, 60) for rung in content.rungs if rung.outcome is Outcome.FAIL]
    warned = [printable(rung.name, 60) for rung in content.rungs if rung.outcome is Outcome.WARN]
    if content.safety is not None:
        sentence, style = _SAFETY["unknown" if _is_only_unknown(content) else content.safety]
        if failed and content.safety == "safe":
            return f"is safe to load, and fails: {', '.join(failed)}", "✘ ", "bold red"
        if "policy" in failed:
            sentence, style = f"{sentence}; it fails the policy", "bold red"
        elif content.waived and not failed:
            sentence = f"{sentence}; it passes, with {content.waived} waived"
        return sentence, "✔ " if content.passed else "✘ ", style
    good, bad = _VERDICTS.get(content.kind, _VERDICTS[Kind.VERIFY])
    if content.undecided:
        return f"could not be checked to its end: {', '.join(failed)}", "✘ ", "bold red"
    if failed:
        return f"{bad}: {', '.join(failed)}", "✘ ", "bold red"
    waived = f", with {content.waived} waived" if content.waived else ""
    if content.kind is Kind.VERIFY and any(item.rule == "T002" for item in content.findings()):
        good = "is consistent, by a manifest that nobody signed"
    if warned and not brief:
        return f"{good}{waived}, with warnings: {', '.join(warned)}", "✔ ", "bold yellow"
    return f"{good}{waived}", "✔ ", "bold yellow" if waived else "bold green"


def count_of(contents: Sequence[Report]) -> str:
    """How many of several reports are good."""
    good = sum(content.passed for content in contents)
    same = bool(contents) and contents[0].kind is Kind.DIFF
    return f"{good} of {len(contents)} {'are the same' if same else 'pass'}"


def weight_of(item: Finding) -> int:
    """By what findings are sorted, wherever they are shown: errors first, and last what is waived."""
    return [Severity.ERROR, Severity.WARNING, Severity.NOTE].index(item.severity) + 3 * (item.waived is not None)


def with_code(text: str, limit: int) -> list[tuple[str, bool]]:
    """A sentence, escaped for a terminal, in pieces, each with whether it is code: what stands between backquotes."""
    pieces = printable(text, limit).split("`")
    if len(pieces) % 2 == 0:
        return [("`".join(pieces), False)]
    return [(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece]


def mark_of(content: Report) -> Outcome:
    """A whole report as one outcome; skipped where nothing of it was checked."""
    if not content.passed:
        return Outcome.FAIL
    outcomes = {shown_outcome(rung) for rung in content.rungs}
    if Outcome.WARN in outcomes:
        return Outcome.WARN
    return Outcome.SKIP if outcomes == {Outcome.SKIP} else Outcome.PASS


def shown_outcome(rung: Rung) -> Outcome:
    """The outcome of a rung, and a warning where it passes because something is waived."""
    waived = any(item.waived is not None and item.severity is not Severity.NOTE for item in rung.findings)
    return Outcome.WARN if waived and rung.outcome is Outcome.PASS else rung.outcome


def _is_only_unknown(content: Report) -> bool:
    """Whether a file is unsafe on account of names alone that are not known."""
    found = [
        item for item in content.findings() if item.rule in ("F010", "F012") and item.severity is not Severity.NOTE
    ]
    return bool(found) and all(item.evidence.get("effect") == "unknown" for item in found)

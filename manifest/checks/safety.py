"""Whether loading a checkpoint by its own library would run code, and what would be refused.

There are three verdicts, never two: what cannot be read is neither safe nor unsafe. What each global does is said by
`checkpoint.pickles.named_globals`; here it becomes findings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum

from manifest.checkpoint import Checkpoint
from manifest.checkpoint.pickles.effects import Effect, Judgement
from manifest.escaping import printable
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding

_SHOWN = 3
_MOST_EVIDENCE = 50


class Safety(StrEnum):
    """What would happen on loading by the library that the container belongs to."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    UNREADABLE = "unreadable"


def safety_of(stored: Checkpoint) -> Safety:
    """Whether anything in an open checkpoint would run code that is not its library's own."""
    runs = any(each.effect in (Effect.CODE, Effect.UNKNOWN) for each in _judged(stored.globals).values())
    return Safety.UNSAFE if runs or _foreign_code(stored) else Safety.SAFE


def is_only_unknown(stored: Checkpoint) -> bool:
    """Whether an open checkpoint is unsafe on account of names, or uses of names, that are not known to be harmless."""
    effects = {each.effect for each in _judged(stored.globals).values()}
    return Effect.UNKNOWN in effects and Effect.CODE not in effects and not _foreign_code(stored)


def safety_findings(
    stored: Checkpoint, *, known: Severity = Severity.ERROR, unknown: Severity = Severity.ERROR
) -> list[Finding]:
    """What would run or be refused, alike things together.

    Args:
        stored: The open checkpoint.
        known: How severe code is that would run: less so where nothing is going to unpickle the file.
        unknown: How severe globals are that the catalogue does not know: less so where somebody vouches for the file.
    """
    findings = global_findings(stored.globals, known=known, unknown=unknown)
    plain = [name for name, each in _judged(stored.globals).items() if each.effect is Effect.DATA]
    torch_loads_it = stored.container in ("torch-zip", "torch-legacy")
    if plain and torch_loads_it:
        message = f"The pickle names {_shown(plain)}, plain data that torch.load(weights_only=True) refuses."
        findings.append(finding("F011", message, where=printable(plain[0]), globals=_evidence(plain)))
    if (refused := stored.contents.refused_opcodes) and torch_loads_it:
        opcodes = ", ".join(refused[:_SHOWN])
        message = f"The pickle has opcodes that torch.load(weights_only=True) refuses: {opcodes}."
        findings.append(finding("F011", message, where="pickle", opcodes=list(refused)))
    if code := stored.contents.code:
        foreign = _foreign_code(stored)
        message = f"The file holds {len(code)} programs, {_shown(list(foreign or code))}; none was run."
        severity = known if foreign else Severity.NOTE
        findings.append(finding("F012", message, where=printable(code[0]), severity=severity))
    return findings


def global_findings(
    globals: Sequence[str], *, known: Severity = Severity.ERROR, unknown: Severity = Severity.ERROR
) -> list[Finding]:
    """What of the globals that pickles name would run, alike things together.

    Args:
        globals: `module.name` of each.
        known: How severe code is that would run.
        unknown: How severe globals are that the catalogue does not know.
    """
    findings = []
    groups: dict[tuple[Effect, str], list[str]] = defaultdict(list)
    for name, judgement in _judged(globals).items():
        groups[judgement.effect, judgement.does].append(name)
    for (effect, does), names in groups.items():
        if effect in (Effect.CODE, Effect.UNKNOWN):
            message = f"The pickle names {_shown(names)}, {'which' if len(names) == 1 else 'each of which'} {does}."
            severity = known if effect is Effect.CODE else unknown
            findings.append(
                finding(
                    "F010",
                    message,
                    where=printable(names[0]),
                    severity=severity,
                    globals=_evidence(names),
                    effect=str(effect),
                )
            )
    return findings


def _judged(names: Sequence[str]) -> dict[str, Judgement]:
    """What each global would do. Most files name none, and need no catalogue."""
    if not names:
        return {}
    from manifest.checkpoint.pickles.named_globals import judge

    return {name: judge(name) for name in names}


def broken_findings(stored: Checkpoint, *, checksums: bool) -> list[Finding]:
    """Records of an archive whose bytes are not those that were written, and tensors whose values nobody can see.

    Args:
        stored: The open checkpoint.
        checksums: Whether all of it may be read for the former.
    """
    return [*(_damaged(stored) if checksums else []), *_unlisted(stored)]


def _foreign_code(stored: Checkpoint) -> tuple[str, ...]:
    """Programs with the rights of the whole process; TorchScript has those of a calculator."""
    return () if stored.container == "torchscript" else stored.contents.code


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(printable(name) for name in names[:_SHOWN]) + more


def _evidence(names: list[str]) -> list[str]:
    return [printable(name) for name in names[:_MOST_EVIDENCE]]


def _damaged(stored: Checkpoint) -> list[Finding]:
    names = stored.damaged_records()
    if not names:
        return []
    more = f" and {len(names) - 1} more do" if len(names) > 1 else " does"
    message = f"Record {printable(names[0])}{more} not have the checksum it was written with: its bytes have changed."
    return [finding("F002", message, where=printable(names[0]), records=[printable(name) for name in names[:50]])]


def _unlisted(stored: Checkpoint) -> list[Finding]:
    return [
        finding(
            "F004",
            f"Tensor {printable(name)} is {kind}, whose values cannot be listed.",
            where=printable(name),
            severity=Severity.WARNING,
            remedy="Save it as a plain tensor if it belongs to the weights.",
        )
        for name, kind in list(stored.unlisted.items())[:10]
    ]

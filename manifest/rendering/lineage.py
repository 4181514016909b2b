"""What checkpoints started from, as text for a person and as data for a program.

Everything is what manifests say, so that in text every word of it is escaped.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from manifest.escaping import printable
from manifest.schema.document import Provenance
from manifest.schema.lineage import Ancestor, Descent, Generation, History, Unclaimed

_MOST_SHOWN = 400
_MOST_ANCESTORS = 20
_MOST_KIN = 3
_DIGITS = 12


def show(history: History) -> RenderableType:
    """Each checkpoint with what is on record of it, newest first, then what cannot be told."""
    parts: list[RenderableType] = []
    for descent in history.descents:
        parts += [_heading(descent.generation), _facts(descent), Text()]
    parts += [
        Text(f"✘ {printable(each.path, _MOST_SHOWN)}  {printable(each.reason, _MOST_SHOWN)}", style="bold red")
        for each in history.unread
    ]
    if count := len(history.unrecorded):
        parts.append(Text(f"{count:,} more without a manifest", style="dim"))
    return Group(*(parts[:-1] if parts and parts[-1] == Text() else parts))


def data(history: History) -> dict[str, Any]:
    """The same as JSON values; names as they are, for an encoder that escapes."""
    return {
        "checkpoints": [_data(descent) for descent in history.descents],
        "unread": [{"path": each.path, "reason": each.reason} for each in history.unread],
        "unrecorded": list(history.unrecorded),
    }


def _heading(generation: Generation) -> Text:
    text = Text(printable(generation.path, _MOST_SHOWN), style="bold")
    text.append(f"  {_short(generation.weights[0])}", style="yellow")
    return text.append(f"  {printable(generation.created, 40)}", style="not bold dim")


def training_facts(provenance: Provenance) -> dict[str, str]:
    """What is on record of the training that made some weights, by what it is; nothing of it is escaped."""
    counts = (("epoch", provenance.epoch), ("step", provenance.step))
    facts = {
        "progress": ", ".join(f"{name} {count}" for name, count in counts if count is not None),
        "dataset": provenance.dataset or "",
        "code": _code(provenance),
        "command": shlex.join(provenance.command),
    }
    return {name: value for name, value in facts.items() if value}


def _facts(descent: Descent) -> Table:
    generation = descent.generation
    training = training_facts(generation.provenance)
    command = {name: training.pop(name) for name in ("command",) if name in training}
    facts = {
        "model": generation.model,
        **training,
        "bytes": "not those that are described" if _is_other(generation) else generation.file or "not read",
        **command,
        "signature": generation.signature,
    }
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        bad = (name == "signature" and generation.trusted is False) or (name == "bytes" and _is_other(generation))
        style = "red" if bad else ""
        table.add_row(Text(f"  {name}", style="dim"), Text(printable(value, _MOST_SHOWN), style=style))
    for line in _origins(descent):
        table.add_row(Text("  from", style="dim"), line)
    for kin in descent.kin[:_MOST_KIN]:
        table.add_row(Text("  kin", style="dim"), _unclaimed(kin))
    if len(descent.kin) > _MOST_KIN:
        table.add_row("", Text(f"and {len(descent.kin) - _MOST_KIN:,} more", style="dim"))
    return table


def _unclaimed(kin: Unclaimed) -> Text:
    apart = "" if kin.distance is None else f", {kin.distance:.1e} ± {kin.error or 0:.0%} apart"
    text = Text(printable(kin.name, _MOST_SHOWN), style="yellow")
    return text.append(f"  {kin.relation}{apart}, and no manifest says so", style="dim")


def _is_other(generation: Generation) -> bool:
    """Whether a file is known not to be the one that its manifest describes."""
    return generation.file not in (None, "as described")


def _code(provenance: Provenance) -> str:
    if provenance.git_commit is None:
        return ""
    return f"commit {provenance.git_commit[:_DIGITS]}" + (", with changes" if provenance.git_dirty else "")


def _origins(descent: Descent) -> list[Text]:
    ancestors = descent.ancestors
    lines = [_origin(each, descent.generation) for each in ancestors[:_MOST_ANCESTORS]]
    if len(ancestors) > _MOST_ANCESTORS:
        lines.append(Text(f"and {len(ancestors) - _MOST_ANCESTORS:,} more", style="dim"))
    pretrained = descent.generation.provenance.pretrained
    # A path that was loaded is the name of a parent, too.
    if pretrained is not None and pretrained not in {each.parent.name for each in ancestors}:
        lines.append(Text(printable(pretrained)).append("  pretrained", style="dim"))
    return lines


def _origin(ancestor: Ancestor, of: Generation) -> Text:
    text = Text(printable(ancestor.path or ancestor.parent.name, _MOST_SHOWN))
    if ancestor.parent.weights is not None:
        text.append(f"  {_short(ancestor.parent.weights)}", style="yellow")
    if ancestor.path is not None:
        return text
    return text.append("  the same weights" if ancestor.parent.weights in of.weights else "  not here", style="dim")


def _short(digest: str) -> str:
    return digest.removeprefix("blake3:")[:_DIGITS]


def _data(descent: Descent) -> dict[str, Any]:
    generation, provenance = descent.generation, descent.generation.provenance
    return {
        "path": generation.path,
        "weights": generation.weights[0],
        "created": generation.created,
        "model": generation.model,
        "epoch": provenance.epoch,
        "step": provenance.step,
        "dataset": provenance.dataset,
        "git_commit": provenance.git_commit,
        "git_dirty": provenance.git_dirty,
        "command": provenance.command,
        "signature": generation.signature,
        "trusted": generation.trusted,
        "bytes": generation.file or "not read",
        "pretrained": provenance.pretrained,
        "parents": [
            {"name": each.parent.name, "weights": each.parent.weights, "path": each.path} for each in descent.ancestors
        ],
        "kin": [asdict(each) for each in descent.kin],
    }

"""How checkpoints are related, as text for a person and as data for a program.

Names and sentences are escaped where they are made; here only the roles of components are.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from manifest.escaping import printable
from manifest.kinship.answers import KIN, Kin, PairAnswer, Part, Relation, State
from manifest.kinship.nearest import Relatives
from manifest.schema.vocabulary import role_words

_WORDS = {State.SAME: "untouched", State.MOVED: "moved", State.ANEW: "begun anew"}
_MOST_UNREAD = 5
_UNTOLD = {Relation.UNRELATED, Relation.INCOMPARABLE, Relation.IDENTICAL}


def show(kin: Kin | Relatives) -> RenderableType:
    """Relatives as a table; else the mix first, if there is one, then each pair: the answer, the components, and what
    would refute it.
    """
    if isinstance(kin, Relatives):
        return _relatives(kin)
    parts: list[RenderableType] = []
    if kin.mix is not None:
        parts += [Text(f"✔ {kin.mix.sentence}", style="bold green")]
        residual = f"what it leaves is {kin.mix.residual:.1e} of the distance from the nearest of them"
        parts += [_dim(residual), _dim(f"refuted by {kin.mix.refuted_by}"), Text()]
    for pair in kin.pairs:
        parts += [*_pair(pair), Text()]
    return Group(*parts[:-1])


def data(kin: Kin | Relatives) -> dict[str, Any]:
    """The same as JSON values."""
    return {"schema": "kinship/v1", **_without_none(asdict(kin))}


def _without_none(value: Any) -> Any:
    """Numbers that are none are null: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _without_none(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_none(each) for each in value]
    return None if isinstance(value, float) and not abs(value) < float("inf") else value


def _relatives(kin: Relatives) -> RenderableType:
    """A line each, the nearest first; then the same as a tree."""
    table = Table.grid(padding=(0, 2))
    for pair in kin.found:
        distance = "" if pair.distance is None else f"{pair.distance:.1e} ± {pair.error or 0:.0%}"
        alike = "" if pair.likeness is None else f"alike by {pair.likeness:.3f}"
        table.add_row(Text("✔", style="green"), Text(pair.other), Text(pair.relation), Text(distance), Text(alike))
    count = f"{len(kin.found)} relatives of {kin.asked} among {kin.searched:,} sets of weights"
    lines = [Text(count, style="bold green" if kin.found else "bold red")]
    if kin.without:
        lines.append(_dim(f"{kin.without:,} more have no sketches"))
    lines += [_dim(f"not read: {printable(path, 300)}: {reason}") for path, reason in kin.unread[:_MOST_UNREAD]]
    if len(kin.unread) > _MOST_UNREAD:
        lines.append(_dim(f"and {len(kin.unread) - _MOST_UNREAD:,} more that were not read"))
    tree: list[RenderableType] = [Text(), _tree(kin)] if len(kin.tree) > 1 else []
    return Group(table, *lines, *tree)


def _tree(kin: Relatives) -> Tree:
    """Each behind the one that it hangs from."""
    tree = Tree(Text(kin.asked, style="bold"), guide_style="dim")
    places = {kin.asked: tree}
    for branch in kin.tree:
        text = Text(branch.name).append(f"  {branch.distance:.1e} ± {branch.error:.0%}", style="dim")
        if branch.parent is not None:
            words = "was trained from it" if branch.parent == branch.of else "its parent"
            text.append(f"  {words}, as manifests record", style="dim")
        places[branch.name] = places[branch.of].add(text)
    return tree


def _pair(pair: PairAnswer) -> list[RenderableType]:
    kin = pair.relation in KIN
    heading = Text(f"{'✔' if kin else '✘'} {pair.one} and {pair.other}", style="bold")
    heading.append(f"  {pair.relation}", style="bold green" if kin else "bold red")
    parts: list[RenderableType] = [heading, Text(f"  {pair.sentence}")]
    if pair.relation not in _UNTOLD and len(pair.parts) > 1:
        parts.append(_components(pair.parts))
    parts += [_dim(note) for note in pair.notes]
    if pair.files_tell:
        parts.append(_dim(f"the files would tell {pair.files_tell}"))
    if pair.refuted_by:
        parts.append(_dim(f"refuted by {pair.refuted_by}"))
    return parts


def _components(parts: tuple[Part, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for part in parts:
        name = "others" if part.role is None else role_words(part.role)
        moved = "" if part.state is State.SAME else f"{part.distance:.1e} ± {part.error:.0%}"
        alike = "" if part.likeness is None or part.state is State.SAME else f"alike by {part.likeness:.3f}"
        changed = "" if part.state is State.SAME else f"{part.changed} of {part.tensors} tensors"
        cells = (f"    {printable(name)}", _WORDS[part.state], moved, alike, changed)
        table.add_row(*map(Text, cells))
    return table


def _dim(text: str) -> Text:
    return Text(f"  {text}", style="dim")

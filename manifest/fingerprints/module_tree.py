"""A module tree as it is written down: a line a module, compared and grouped without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manifest.digests import text_digest
from manifest.errors import ArchitectureError
from manifest.schema.document import ModuleRecord
from manifest.schema.name_ranges import fold, unfold_name, without_numbers

_MOST_MODULES = 200_000


@dataclass(frozen=True)
class Part:
    """One module of a tree.

    Attributes:
        path: Attributes that lead to it, joined with dots; `.` for the tree itself.
        class_name: Name of its class, without the class's module, which moves between versions of a library.
        settings: Its hyper-parameters as text.
    """

    path: str
    class_name: str
    settings: Mapping[str, str]

    @property
    def description(self) -> str:
        """`Class(name=value, …)`."""
        return f"{self.class_name}({', '.join(f'{name}={value}' for name, value in self.settings.items())})"

    def __str__(self) -> str:
        return f"{self.path}: {self.description}"


@dataclass(frozen=True)
class Change:
    """One module in which two trees differ; None where a tree has no such module."""

    before: Part | None
    after: Part | None

    @property
    def path(self) -> str:
        return (self.before or self.after).path  # type: ignore[union-attr]

    @property
    def words(self) -> str:
        """What differs: whole descriptions where the class does, else the hyper-parameters that do."""
        if self.before is None or self.after is None:
            part, verb = (self.before, "missing") if self.after is None else (self.after, "added")
            return f"{part.description} ({verb})"  # type: ignore[union-attr]
        if self.before.class_name != self.after.class_name:
            return f"{self.before.description} → {self.after.description}"
        then, now = self.before.settings, self.after.settings
        return ", ".join(
            f"{name} {then.get(name, 'unset')} → {now.get(name, 'unset')}"
            for name in sorted(then.keys() | now.keys())
            if then.get(name) != now.get(name)
        )

    @property
    def is_of_vocabulary(self) -> bool:
        """Whether only the sets of hyper-parameters differ, as they do when a library learns a new one."""
        if self.before is None or self.after is None or self.before.class_name != self.after.class_name:
            return False
        common = self.before.settings.keys() & self.after.settings.keys()
        return all(self.before.settings[name] == self.after.settings[name] for name in common)

    def __str__(self) -> str:
        return f"{self.path}: {self.words}"


def structure_digest(parts: Sequence[Part]) -> str:
    """Digest of a tree's lines."""
    return text_digest(map(str, parts))


def changes(expected: Sequence[Part], found: Sequence[Part]) -> list[Change]:
    """The modules in which two trees differ, in the order of the first, then of the second."""
    then, now = ({part.path: part for part in parts} for parts in (expected, found))
    return [Change(then.get(path), now.get(path)) for path in {**then, **now} if _differ(then.get(path), now.get(path))]


def grouped(differences: Sequence[Change], limit: int = 3) -> str:
    """Changes for a message, like ones together: `…resblocks.{0..11}.mlp.gelu: GELU() → QuickGELU()`."""
    alike: dict[str, list[str]] = {}
    for change in differences:
        alike.setdefault(change.words, []).append(change.path)
    lines = [f"{path}: {words}" for words, paths in alike.items() for path in fold(paths)]
    more = f" and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more


def outline(parts: Sequence[Part]) -> list[ModuleRecord]:
    """A tree in few words: modules that differ in the numbers of their paths only share a record."""
    alike: dict[tuple[str, ...], list[Part]] = {}
    for part in parts:
        alike.setdefault((without_numbers(part.path), part.description), []).append(part)
    return [
        ModuleRecord.model_validate({"path": path, "class": same[0].class_name, "settings": same[0].settings})
        for same in alike.values()
        for path in fold([part.path for part in same])
    ]


def unfold(records: Iterable[ModuleRecord]) -> list[Part]:
    """The parts of an outline.

    Raises:
        ArchitectureError: It stands for more modules than any model has.
    """
    parts: list[Part] = []
    for record in records:
        paths = unfold_name(record.path, most=_MOST_MODULES - len(parts))
        if paths is None:
            raise ArchitectureError(
                f"The manifest lists more than {_MOST_MODULES:,} modules; get it from a source you trust."
            )
        parts += [Part(path, record.class_name, record.settings) for path in paths]
    return parts


def _differ(one: Part | None, other: Part | None) -> bool:
    return one is None or other is None or one.description != other.description

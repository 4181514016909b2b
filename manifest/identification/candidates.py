"""What some weights could be: architectures that they fit, and how well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from manifest.identification.adapters import Adapters
from manifest.schema.name_ranges import without_numbers
from manifest.weights.shape_diff import Shape, ShapeDiff

LIBRARIES = ("open_clip", "torchvision", "timm", "transformers")
"""In the order in which equal candidates are named."""


@dataclass(frozen=True)
class ArchitectureCandidate:
    """An architecture that some weights could be of.

    Attributes:
        library: `open_clip`, `timm`, `torchvision` or `transformers`.
        name: In the library's registry; of transformers, the class.
        settings: What more is known: `quick_gelu`, `image_size`; of transformers, sizes as its config has them.
        fit: How the weights differ from what it expects.
        roles: Component role by expected name.
        shapes: Expected shape by name.
        stored: Name in the file by expected name, where it is there.
        otherwise: Arguments and steps, as code, by which it was built otherwise than it is registered.
        under_other_name: Name that is not there → the other name of its tensor, under which it is not usually saved.
        once_more: Name that is not there → the name of its tensor under which it is usually saved.
        tied_by_default: Whether such names are of one tensor unless a config says otherwise.
    """

    library: str
    name: str
    settings: Mapping[str, Any]
    fit: ShapeDiff
    roles: Mapping[str, str]
    shapes: Mapping[str, Shape]
    stored: Mapping[str, str]
    otherwise: str = ""
    under_other_name: Mapping[str, str] = field(default_factory=dict)
    once_more: Mapping[str, str] = field(default_factory=dict)
    tied_by_default: bool = True

    @property
    def exact(self) -> bool:
        """Whether nothing is missing, unexpected or of another shape."""
        return not (self.fit.missing or self.fit.unexpected or self.fit.reshaped)

    @property
    def customised(self) -> int:
        """How many arguments it was built with otherwise than it is registered."""
        return self.otherwise.count("=")

    @cached_property
    def absent_roles(self) -> tuple[str, ...]:
        """Components of which nothing is there, not even another component's tensor that they are tied to."""
        present = {self.roles[name] for name in self.stored}
        lacking = {self.roles[name] for name in self.fit.missing}
        return tuple(role for role in dict.fromkeys(self.roles.values()) if role in lacking - present)

    @cached_property
    def formed_otherwise(self) -> bool:
        """Whether several layers of the weights have a tensor that it has not, as those of another class have.

        Classes of transformers are of any size and share the names of most of their tensors.
        """
        more = Counter(without_numbers(name) for name in self.fit.unexpected)
        return self.library == "transformers" and any(count > 1 and "*" in name for name, count in more.items())

    @cached_property
    def likeness(self) -> tuple[float, float]:
        """What it and the weights have in common, of all that either has: by name and shape, and by name.

        Components of which there is nothing do not count: a file without a text tower is no less of its architecture.
        """
        absent = frozenset(self.absent_roles)
        missing = sum(self.roles[name] not in absent for name in self.fit.missing)
        named = len(self.stored)
        together = max(named + missing + len(self.fit.unexpected), 1)
        return (named - len(self.fit.reshaped)) / together, named / together


@dataclass(frozen=True)
class Identification:
    """What some weights could be.

    Attributes:
        candidates: All that fit exactly, or else the nearest, the best first; none when nothing is near.
        renaming: What was done to the names, one clause each.
        untold: Which of several architectures it is that names and shapes do not tell apart, one sentence each.
        settings: Which settings they want that a library has for weights of its own alone, one sentence each.
        notes: What else they do not tell, one sentence each.
        adapters: Low-rank adapters beside the weights, or instead of them.
        written_by: What wrote the file, where its other contents tell.
        put_back: The end of the prefix that was removed from all names, where it is a part of the architecture's.
    """

    candidates: tuple[ArchitectureCandidate, ...]
    renaming: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adapters: Adapters | None = None
    written_by: str | None = None
    put_back: str = ""

    @property
    def exact(self) -> bool:
        """Whether the candidates fit exactly."""
        return bool(self.candidates) and self.candidates[0].exact

"""Whether weights are those of an architecture: names and shapes held against each other, told by component.

Libraries bend weights to fit without a word: position embeddings are interpolated, a missing `logit_bias` becomes
zeros, a head with other classes is dropped. A family says which; who makes a model has to ask for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manifest.schema.name_ranges import shortened
from manifest.schema.vocabulary import role_words

Shape = tuple[int, ...]
_OPTIONAL = frozenset(
    {
        *("position_ids", "attn_mask", "relative_position_index", "relative_coords_table", "inv_freq"),
        *("num_batches_tracked", "n_averaged", "total_ops", "total_params"),
    }
)
"""Tables and counters that some versions store and others compute; profilers and averaging leave the last three."""


def is_optional(name: str) -> bool:
    """Whether weights are whole with and without this tensor."""
    return name.rpartition(".")[2] in _OPTIONAL


@dataclass(frozen=True)
class ShapeDiff:
    """How found weights differ from expected ones.

    Attributes:
        missing: Names that are expected and not found.
        unexpected: Names that are found and not expected.
        reshaped: Name → the shape found, and the one expected.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: Mapping[str, tuple[Shape, Shape]]

    def sentences(self, roles: Mapping[str, str] | None = None) -> list[str]:
        """What does not fit, one clause for each component and kind, none when everything does.

        Args:
            roles: The component of each expected name, where components are known.
        """
        said = [f"{where}{shortened(names)} missing" for where, names in _by_role(self.missing, roles)]
        if self.unexpected:
            said.append(f"{shortened(self.unexpected)} unexpected")
        for where, names in _by_role(tuple(self.reshaped), roles):
            found, expected = self.reshaped[names[0]]
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            said.append(f"{where}{names[0]} has shape {list(found)} where {list(expected)} is expected{more}")
        return said


def shape_diff(
    expected: Mapping[str, Shape], found: Mapping[str, Shape], absent: frozenset[str] = frozenset()
) -> ShapeDiff:
    """Hold found weights against expected ones.

    Args:
        expected: Shape by name, as the architecture has them.
        found: Shape by name, as the checkpoint has them.
        absent: Names that may be missing.
    """
    return ShapeDiff(
        missing=tuple(name for name in expected if name not in found and name not in absent),
        unexpected=tuple(name for name in found if name not in expected),
        reshaped={
            name: (found[name], shape) for name, shape in expected.items() if name in found and found[name] != shape
        },
    )


def _by_role(names: Sequence[str], roles: Mapping[str, str] | None) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        role = (roles or {}).get(name)
        groups.setdefault(f"of the {role_words(role)}, " if role else "", []).append(name)
    return list(groups.items())

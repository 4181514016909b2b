"""Words that manifests and reports share: states, trainings, modes, roles, and how they are said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Status(StrEnum):
    COMPLETE = "complete"
    PARTIAL = "partial"
    ABSENT = "absent"


class Training(StrEnum):
    TRAINED = "trained"
    BARELY = "barely_trained"
    """So few or so small steps were taken that the weights are still their initialiser's but for the last digits."""
    INITIALISED = "initialised"
    UNKNOWN = "unknown"

    @property
    def words(self) -> str:
        """For a person: `barely trained`."""
        return self.replace("_", " ")


class Mode(StrEnum):
    TRAIN = "train"
    EVAL = "eval"
    MIXED = "mixed"
    UNKNOWN = "unknown"


ROLES = (
    "vision_tower",
    "vision_projection",
    "text_tower",
    "text_projection",
    "text_decoder",
    "logit_scale",
    "logit_bias",
    "backbone",
    "neck",
    "head",
)
"""Roles of the components of the families that ship with this package; a family of somebody's own may have others."""


def role_words(role: str) -> str:
    """A component's role for a person: `vision tower`."""
    return role.replace("_", " ")


def activation_words(activations: Mapping[str, Mapping[str, int]]) -> str:
    """Activations by tower as words: `text 12 × GELU; visual 12 × GELU`."""
    return "; ".join(
        f"{tower} {', '.join(f'{count} × {kind}' for kind, count in kinds.items())}"
        for tower, kinds in sorted(activations.items())
    )


def training_words(verdicts: Iterable[tuple[str, Training]]) -> str:
    """How many components have each verdict, and which have not been shown to be trained.

    Args:
        verdicts: The role and the verdict of each component that is there.

    Returns:
        For example `3 trained, 1 unknown (logit scale)`; nothing where there are no components.
    """
    roles: dict[Training, list[str]] = {each: [] for each in Training}
    for role, training in verdicts:
        roles[training].append(role_words(role))
    return ", ".join(
        f"{len(names)} {training.words}" + ("" if training is Training.TRAINED else f" ({', '.join(names)})")
        for training, names in roles.items()
        if names
    )


def component_tensors(prefixes: Iterable[str], names: Iterable[str]) -> list[str]:
    """Those names that belong to a component: equal to a prefix, or beginning with one that ends in a dot."""
    exact = {prefix for prefix in prefixes if not prefix.endswith(".")}
    starts = tuple(prefix for prefix in prefixes if prefix.endswith("."))
    return [name for name in names if name in exact or (starts and name.startswith(starts))]


def prefixes(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The fewest prefixes by which `component_tensors` finds these names and no others."""
    taken = {other[: i + 1] for other in others for i, letter in enumerate(other) if letter == "."}
    return sorted(
        {
            next((name[: i + 1] for i, letter in enumerate(name) if letter == "." and name[: i + 1] not in taken), name)
            for name in names
        }
    )

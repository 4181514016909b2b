"""What is said of how checkpoints are related. Names and sentences in it are escaped."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Relation(StrEnum):
    """How two sets of weights, or one and several others, are related."""

    IDENTICAL = "identical"
    ROUNDED = "rounded"
    """One is a copy of the other through a shorter type."""
    PRUNED = "pruned"
    """One is the other with some values set to zero."""
    LOW_RANK = "low-rank"
    """They differ by matrices of a low rank, as merged LoRA adapters."""
    RESIZED = "resized"
    """They are the same but for a table of positions that has another size."""
    SAME_START = "same-start"
    """One was trained from the other, or both from a third."""
    PERMUTED = "permuted"
    """They are the same in another order of units."""
    UNRELATED = "unrelated"
    INCOMPARABLE = "incomparable"
    """They have no tensor in common by which it could be told."""
    MIXED = "mixed"
    """One is a mix of the others, whose coefficients sum to one: an average, a merge, task arithmetic."""
    COMBINED = "combined"
    """One is a sum of the others by coefficients that do not sum to one, as a task vector is."""


KIN = frozenset(Relation) - {Relation.UNRELATED, Relation.INCOMPARABLE}


class State(StrEnum):
    """What became of one component."""

    SAME = "same"
    MOVED = "moved"
    ANEW = "anew"
    """Nothing in it is like the other's: it was begun anew, or comes from elsewhere."""


@dataclass(frozen=True)
class Part:
    """One component in two sets of weights.

    Attributes:
        role: Of the component; None for tensors that belong to none.
        state: What became of it.
        tensors: How many there are in both.
        changed: How many of them differ.
        distance: Relative L2 distance, over the norm in the second.
        error: Its relative standard error.
        likeness: Mean cosine of its matrices; None where there are none.
    """

    role: str | None
    state: State
    tensors: int
    changed: int
    distance: float
    error: float
    likeness: float | None


@dataclass(frozen=True)
class PairAnswer:
    """How two sets of weights are related.

    Attributes:
        one: The one that is asked about.
        other: What it is compared with.
        relation: How.
        sentence: The same in words.
        parts: By component.
        distance: Relative L2 distance of all that both have, over the norm in the second; None where nothing is.
        error: Its relative standard error.
        likeness: Mean cosine of matrices; None where there are none.
        sureness: By how many standard errors that is more than of unrelated weights.
        refuted_by: What would show that the answer is wrong.
        files_tell: What the files would tell that manifests cannot; empty where they are at hand, or nothing is open.
        notes: What else is to be said: tensors that only one has, what manifests record.
        evidence: The numbers behind it.
    """

    one: str
    other: str
    relation: Relation
    sentence: str
    parts: tuple[Part, ...] = ()
    distance: float | None = None
    error: float | None = None
    likeness: float | None = None
    sureness: float | None = None
    refuted_by: str = ""
    files_tell: str = ""
    notes: tuple[str, ...] = ()
    evidence: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class MixAnswer:
    """How one set of weights is a mix of others.

    Attributes:
        made: The mix.
        relation: `mixed` or `combined`.
        sentence: The same in words.
        coefficients: Of each of the others, by name.
        errors: The standard error of each coefficient.
        residual: What the mix does not explain, as a share of the distance from the nearest of the others.
        by_component: Coefficients by component, where these differ.
        besides: Tensors that are no such mix.
        refuted_by: What would show that the answer is wrong.
    """

    made: str
    relation: Relation
    sentence: str
    coefficients: dict[str, float]
    errors: dict[str, float]
    residual: float
    by_component: dict[str, dict[str, float]] = field(default_factory=dict)
    besides: tuple[str, ...] = ()
    refuted_by: str = ""


@dataclass(frozen=True)
class Kin:
    """The answer to one question.

    Attributes:
        pairs: The first of the named ones with each of the others.
        mix: How one of three or more is a mix of the others; None where none is.
    """

    pairs: tuple[PairAnswer, ...]
    mix: MixAnswer | None = None

    @property
    def exit_code(self) -> int:
        """0 where all are related, 1 where some are not, 2 where that cannot be told of some."""
        if self.mix is not None:
            return 0
        relations = {pair.relation for pair in self.pairs}
        return 2 if Relation.INCOMPARABLE in relations else int(not relations <= KIN)

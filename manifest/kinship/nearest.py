"""The nearest relatives of checkpoints among many: matrix products find the alike, and each of those is compared."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from manifest.escaping import printable
from manifest.kinship.answers import KIN, PairAnswer, Relation, State
from manifest.kinship.distances import distance_of
from manifest.kinship.index import Index
from manifest.kinship.layouts import Entry, Sought
from manifest.kinship.pairs import answer, paired
from manifest.kinship.searching import searched
from manifest.kinship.subjects import Subject
from manifest.schema.vocabulary import role_words

_MOST_COMPARED = 20
"""Of the alike, those that are compared."""


@dataclass(frozen=True)
class Branch:
    """One set of weights in a tree of relatives.

    Attributes:
        name: What it is called.
        of: What it hangs from: its parent or child, as manifests record it, else the nearest of those above.
        distance: Relative L2 distance of what both have, over the norm in the latter.
        error: Its relative standard error.
        parent: Which of the two the other was trained from; None where no manifest says so.
    """

    name: str
    of: str
    distance: float
    error: float
    parent: str | None


@dataclass(frozen=True)
class Relatives:
    """The nearest relatives of a checkpoint.

    Attributes:
        asked: The checkpoint.
        found: The nearest first; those that are not related are left out.
        tree: The same as a tree that begins with the checkpoint, each behind the one that it hangs from.
        searched: How many sets of weights have sketches.
        without: How many manifests have none.
        unread: Paths of those that are not valid, each with the reason.
    """

    asked: str
    found: tuple[PairAnswer, ...]
    tree: tuple[Branch, ...]
    searched: int
    without: int
    unread: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """0 where there is a relative, 1 where there is none, 2 where there was nothing to search."""
        if self.found:
            return 0
        return 1 if self.searched else 2

    @property
    def in_short(self) -> str:
        """What the nearest is, and how many more there are, as a clause."""
        among = f"among {self.searched:,} sets of weights"
        if not self.found:
            return f"no relative {among}" if self.searched else "nothing with sketches to compare it with"
        more = f"; {len(self.found) - 1} more relatives {among}" if len(self.found) > 1 else ""
        return _clause(self.found[0], self.tree) + more


def _clause(pair: PairAnswer, tree: Sequence[Branch]) -> str:
    """How some weights are related to others, as a clause whose subject they are."""
    if pair.relation is Relation.IDENTICAL:
        return f"the same weights as {pair.other}"
    if pair.relation is not Relation.SAME_START:
        return f"{pair.relation}, beside {pair.other}: {pair.sentence.removesuffix('.')}"
    parent = next((each.parent for each in tree if (each.name, each.of) == (pair.other, pair.one)), None)
    kin = {
        None: f"a fine-tune of {pair.other}, or the reverse, or both of one start",
        pair.other: f"a fine-tune of {pair.other}, as its manifest records",
    }.get(parent, f"what {pair.other} was trained from, as the manifest of that records")
    said = [f"{kin}, apart by {pair.distance:.1e} ± {pair.error or 0:.0%} (relative L2)"]
    for state, words in ((State.SAME, f"{pair.other}'s, untouched"), (State.ANEW, "begun anew, or from elsewhere")):
        roles = [role_words(part.role) for part in pair.parts if part.state is state and part.role is not None]
        if roles:
            said.append(f"its {printable(', '.join(roles), 300)} {'is' if len(roles) == 1 else 'are'} {words}")
    return "; ".join(said)


def nearest(asked: Subject, place: Path) -> Relatives:
    """The relatives of some weights in a folder of manifests or an index.

    Raises:
        InputError: There is no such place, or it holds too many manifests.
        DocumentError: It is a file and no index.
    """
    return nearest_of_each([asked], place)[0]


def nearest_of_each(
    asked: Sequence[Subject], place: Path, passed_over: Callable[[int, Entry], bool] | None = None
) -> list[Relatives]:
    """The relatives of several, for which all that is there is read once.

    Args:
        asked: The weights.
        place: A folder of manifests, or an index.
        passed_over: Of the weights of a number, whether others are not asked for.
    """
    searches = [_Search(each) for each in asked]
    count = 0
    with searched(place) as source:
        for batch in source.batches():
            count += len(batch.entries)
            for number, search in enumerate(searches):
                for which, score in enumerate(search.sought.alike(batch).tolist()):
                    entry = batch.entries[which]
                    if search.wants(score) and not (passed_over is not None and passed_over(number, entry)):
                        search.keep(score, partial(batch.subject, which))
        without, unread = (0, []) if isinstance(source, Index) else (source.without, source.unread)
        return [Relatives(search.asked.name, *_compared(search), count, without, tuple(unread)) for search in searches]


@dataclass
class _Search:
    """Weights, and the most alike of those that were looked at: the likeness of each, and what gives it whole."""

    asked: Subject
    best: list[tuple[float, int, Callable[[], Subject]]] = field(default_factory=list)
    kept: int = 0

    def __post_init__(self) -> None:
        self.sought = Sought(self.asked)

    def wants(self, score: float) -> bool:
        return len(self.best) < _MOST_COMPARED or score > self.best[0][0]

    def keep(self, score: float, subject: Callable[[], Subject]) -> None:
        self.kept += 1
        (heapq.heappushpop if len(self.best) == _MOST_COMPARED else heapq.heappush)(
            self.best, (score, -self.kept, subject)
        )


def _compared(search: _Search) -> tuple[tuple[PairAnswer, ...], tuple[Branch, ...]]:
    """The related among the most alike, the nearest first, and how they hang together."""
    subjects = _named_apart([search.asked, *(give() for _, _, give in search.best)])[1:]
    found = [(answer(paired(search.asked, each)), each) for each in subjects]
    related = [(pair, each) for pair, each in found if pair.relation in KIN]
    related.sort(key=lambda each: (each[0].distance is None, each[0].distance, each[0].other))
    return tuple(pair for pair, _ in related), tuple(_branches(search.asked, [each for _, each in related]))


def _named_apart(subjects: Sequence[Subject]) -> list[Subject]:
    """The same, with their digests behind names that several have."""
    counts = Counter(each.name for each in subjects)
    return [
        each if counts[each.name] == 1 else replace(each, name=f"{each.name} ({each.weights.partition(':')[2][:8]})")
        for each in subjects
    ]


def _branches(asked: Subject, others: Sequence[Subject]) -> Iterator[Branch]:
    """A tree that begins with what is asked about, as of the nearest nobody knows which came first."""
    left = list(others)
    edges = [_edge(each, asked) for each in left]
    while left:
        at = min(range(len(left)), key=lambda number: _order(edges[number]))
        subject, edge = left.pop(at), edges.pop(at)
        yield edge
        edges = [min(edge, _edge(each, subject), key=_order) for edge, each in zip(edges, left, strict=True)]


def _edge(one: Subject, other: Subject) -> Branch:
    distance, error = distance_of(paired(one, other).both.values())
    parent = one.name if one.weights in other.parents else other.name if other.weights in one.parents else None
    return Branch(one.name, other.name, distance, error, parent)


def _order(branch: Branch) -> tuple[bool, float]:
    """What is on record comes before what is near."""
    return branch.parent is None, branch.distance

"""Checkpoints as generations: which started from which, by the digests of their weights.

Everything here is what manifests say, and anybody may have written them: a checkpoint may call itself its own
ancestor. Names are for people; what links two checkpoints is the digest of the weights.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from manifest.schema.document import Parent, Provenance


@dataclass(frozen=True)
class Generation:
    """One checkpoint, as its manifest tells of it.

    Attributes:
        path: Where it is.
        name: Its file name.
        weights: Weights digests of the models in it, the one that is meant first.
        created: When it was saved, by the clock that was there.
        model: Family and name of its architecture.
        provenance: Where its weights come from.
        signature: Who signed it, in words.
        trusted: Whether the trusted key did, and the bytes are those that it signed; None when there was none to check
            by.
        file: `as described` where its bytes were read and are those that the manifest describes, else how it shows
            that they are others; None where they were not read.
    """

    path: str
    name: str
    weights: tuple[str, ...]
    created: str
    model: str
    provenance: Provenance
    signature: str
    trusted: bool | None
    file: str | None = None


@dataclass(frozen=True)
class Ancestor:
    """One checkpoint that another started from.

    Attributes:
        parent: As the other's manifest names it.
        path: Where it is; None when it is not among those that were read.
    """

    parent: Parent
    path: str | None


@dataclass(frozen=True)
class Unclaimed:
    """A relative by the weights, of which no manifest says so. Its name is escaped.

    Attributes:
        name: What it is called.
        relation: How it is related.
        distance: Relative L2 distance; None where there is none.
        error: Its relative standard error.
    """

    name: str
    relation: str
    distance: float | None
    error: float | None


@dataclass(frozen=True)
class Descent:
    """A checkpoint with those that it started from, and relatives that no parent on record explains."""

    generation: Generation
    ancestors: tuple[Ancestor, ...]
    kin: tuple[Unclaimed, ...] = ()


@dataclass(frozen=True)
class Unread:
    """A checkpoint whose manifest tells nothing.

    Attributes:
        path: Where it is.
        reason: Why, in one sentence.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class History:
    """Checkpoints and what they started from.

    Attributes:
        descents: Newest first, and none before those that started from it.
        unread: Those whose manifests cannot be read.
        unrecorded: Paths of those that have none.
    """

    descents: tuple[Descent, ...] = ()
    unread: tuple[Unread, ...] = ()
    unrecorded: tuple[str, ...] = ()


def trace_descent(generations: Sequence[Generation]) -> tuple[Descent, ...]:
    """Checkpoints with those that they started from, newest first; in a ring of ancestors, the newest begins."""
    newest = sorted(sorted(generations, key=lambda each: each.path), key=lambda each: each.created, reverse=True)
    found = _Found(newest)
    ancestors = [[found.index(parent, of) for parent in each.provenance.parents] for of, each in enumerate(newest)]
    return tuple(
        Descent(
            newest[index],
            tuple(
                Ancestor(parent, None if where is None else newest[where].path)
                for parent, where in zip(newest[index].provenance.parents, ancestors[index], strict=True)
            ),
        )
        for index in _children_first([{each for each in some if each is not None} for some in ancestors])
    )


class _Found:
    """Where weights are among some checkpoints: in the file of that name if there is one, else in the newest other."""

    def __init__(self, generations: Sequence[Generation]) -> None:
        self._named: dict[tuple[str, str], list[int]] = {}
        self._any: dict[str, list[int]] = {}
        for index, each in enumerate(generations):
            for digest in dict.fromkeys(each.weights):
                for places in (self._named.setdefault((digest, each.name), []), self._any.setdefault(digest, [])):
                    if len(places) < 2:  # one may be the checkpoint itself
                        places.append(index)

    def index(self, parent: Parent, of: int) -> int | None:
        """The place of a parent, which nobody is of himself."""
        if parent.weights is None:
            return None
        places = (*self._named.get((parent.weights, parent.name), ()), *self._any.get(parent.weights, ()))
        return next((place for place in places if place != of), None)


def _children_first(parents: Sequence[set[int]]) -> Iterator[int]:
    """Every index once: the least of those first whose children all came before, or of all where these form a ring."""
    waiting = [0] * len(parents)
    for some in parents:
        for parent in some:
            waiting[parent] += 1
    ready = [index for index, children in enumerate(waiting) if not children]
    done = [False] * len(parents)
    for start in range(len(parents) + 1):
        while ready:
            index = heapq.heappop(ready)
            if done[index]:
                continue
            done[index] = True
            yield index
            for parent in parents[index]:
                waiting[parent] -= 1
                if not waiting[parent]:
                    heapq.heappush(ready, parent)
        if start < len(parents) and not done[start]:
            ready.append(start)

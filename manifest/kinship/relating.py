"""How checkpoints are related: the question as a user asks it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from manifest.errors import InputError
from manifest.kinship.answers import Kin
from manifest.kinship.files import with_files
from manifest.kinship.indexing import Indexed, indexed
from manifest.kinship.mixing import mix_of
from manifest.kinship.nearest import Relatives, nearest
from manifest.kinship.pairs import answer, paired
from manifest.kinship.subjects import Subject, opened
from manifest.progress import Follower, followed

_MOST = 64
"""Checkpoints that are compared at once."""


@followed
def relate(one: str | os.PathLike[str], *others: str | os.PathLike[str], progress: Follower = None) -> Kin:
    """How a checkpoint is related to others, from sketches of their weights.

    Args:
        one: The one that is asked about: a checkpoint, or a manifest by itself.
        others: What it is compared with, one at least.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        How it is related to each of the others; of three and more, also how one of them is a mix of the others.

    Raises:
        InputError: There is nothing to compare it with, or no such file.
        CheckpointError: One of them cannot be read.
        DocumentError: A manifest is not valid, or has no sketches.

    Example:
        >>> import torch
        >>> model = manifest.load("ckpt.pt")
        >>> with torch.no_grad():
        ...     for weight in model.visual.parameters():
        ...         _ = weight.mul_(1.01)
        >>> _ = manifest.save(model, "next.pt", golden=False)
        >>> (pair,) = manifest.relate("next.pt", "ckpt.pt.manifest.json").pairs
        >>> str(pair.relation)
        'same-start'
    """
    del progress  # `followed` takes it
    if not 1 <= len(others) < _MOST:
        raise InputError(f"{len(others)} checkpoints are to be compared with, expected 1 to {_MOST - 1}; name some.")
    with ExitStack() as stack:
        subjects = []
        for place in (one, *others):
            subject = opened(place)
            stack.callback(subject.close)
            subjects.append(subject)
        first, *rest = _named_apart(subjects, [one, *others])
        pairs = [paired(first, each) for each in rest]
        return Kin(tuple(with_files(pair, answer(pair)) for pair in pairs), mix_of([first, *rest]))


@followed
def relatives(
    checkpoint: str | os.PathLike[str], against: str | os.PathLike[str], *, progress: Follower = None
) -> Relatives:
    """The nearest relatives of a checkpoint in an index of sketches, or among the manifests in a folder and below it.

    Args:
        checkpoint: A checkpoint, or a manifest by itself.
        against: A folder with manifests, beside which checkpoints are not read; or an index that `add_to_index` made.
        progress: Who follows it, as of `relate`.

    Returns:
        Up to twenty relatives, the nearest first, and how they hang together.

    Raises:
        InputError: There is no such place or checkpoint.
        DocumentError: What is searched is a file and no index.
        CheckpointError: The checkpoint cannot be read.

    Example:
        >>> manifest.relatives("ckpt.pt", ".").asked
        'ckpt.pt'
    """
    del progress  # `followed` takes it
    asked = opened(checkpoint)
    try:
        return nearest(asked, Path(against))
    finally:
        asked.close()


@followed
def add_to_index(
    index: str | os.PathLike[str], places: Iterable[str | os.PathLike[str]], *, progress: Follower = None
) -> Indexed:
    """Put sketches of weights into an index, in which `relatives`, `audit` and `lineage` search thousands at once.

    Args:
        index: The file, which is made where there is none.
        places: Manifests; checkpoints, which are read; or folders, of which the manifests in and below them count.
            The same weights are in the index once, under the name by which they were added last.
        progress: Who follows it, as of `relate`.

    Returns:
        What became of it; also what could not be read, without which the rest is added.

    Raises:
        InputError: There is no such place.
        DocumentError: The file is there and is no index.
        StorageError: It cannot be written.

    Example:
        >>> manifest.add_to_index("kin.index", ["ckpt.pt.manifest.json"]).held
        1
        >>> str(manifest.relatives("ckpt.pt", "kin.index").found[0].relation)
        'identical'
    """
    del progress  # `followed` takes it
    return indexed(Path(index), [Path(each) for each in places])


def _named_apart(subjects: list[Subject], places: list[str | os.PathLike[str]]) -> list[Subject]:
    """The same, called by their paths where two file names are one."""
    names = [each.name for each in subjects]
    if len(set(names)) == len(names):
        return subjects
    return [replace(each, name=str(place)) for each, place in zip(subjects, places, strict=True)]

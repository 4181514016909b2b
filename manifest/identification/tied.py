"""Tensors that have two names in a model and one in a file: which name is there, and whether the other may be missing.

Which tensors of a class are one is told by the templates of transformers; whether they are tied where that is a matter
of choice, by the config beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from manifest.escaping import printable
from manifest.identification.candidates import ArchitectureCandidate
from manifest.identification.claims import Claim
from manifest.schema.report import Finding
from manifest.schema.rules import finding
from manifest.schema.vocabulary import role_words


def untied_as_said(meant: ArchitectureCandidate, said: Sequence[Claim]) -> ArchitectureCandidate:
    """An architecture that lacks what would be there once more if it were tied, where a config says that it is not."""
    told = _told(said)
    if told is None or told.tied:
        return meant
    return replace(meant, fit=replace(meant.fit, missing=(*meant.fit.missing, *meant.tied_by_choice)))


def tied_once(alike: Sequence[ArchitectureCandidate], said: Sequence[Claim]) -> Iterator[Finding]:
    """What there is to say of tensors that are in a file under one of their names.

    Args:
        alike: The architecture that the file is held to, then those that it is as well by names and shapes.
        said: What is said of the file.
    """
    for name, other in alike[0].under_other_name.items():
        message = (
            f"{_part(alike[0], name)} has {name} under the name {other} alone, to which it is tied: transformers 5 "
            "takes it from there, and older releases leave it empty."
        )
        remedy = "Load it by transformers 5 or newer and write it anew by `save_pretrained`, for older ones to load it."
        yield finding("C013", message, where=alike[0].roles[name], remedy=remedy)
    chosen = next((each for each in alike if each.tied_by_choice), alike[0])
    told = _told(said)
    for name, first in chosen.tied_by_choice.items():
        if told is None:
            once = f"which is {first} once more with `tie_word_embeddings=True`, and missing without"
            yield finding("C013", f"{_part(chosen, name)} lacks {name}, {once}.", where=chosen.roles[name])
        elif not told.tied:
            why = f"and {printable(told.source)} has `tie_word_embeddings` false, so it is not {first} once more"
            yield finding("C013", f"{_part(chosen, name)} lacks {name}, {why}.", where=chosen.roles[name])


def _told(said: Sequence[Claim]) -> Claim | None:
    return next((claim for claim in said if claim.tied is not None), None)


def _part(meant: ArchitectureCandidate, name: str) -> str:
    return f"The {role_words(meant.roles[name])} of {meant.library} {meant.name}"

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
    """An architecture that lacks what would be there under another name, where a config says that nothing is tied."""
    told = _told(said)
    if told is None or told.tied:
        return meant
    missing = (*meant.fit.missing, *meant.under_other_name, *meant.once_more)
    return replace(meant, fit=replace(meant.fit, missing=missing))


def tied_once(alike: Sequence[ArchitectureCandidate], said: Sequence[Claim]) -> Iterator[Finding]:
    """What there is to say of tensors that are in a file under one of their names.

    Args:
        alike: The architecture that the file is held to, then those that it is as well by names and shapes.
        said: What is said of the file.
    """
    told = _told(said)
    by_choice = (each for each in alike if not each.tied_by_default and (each.under_other_name or each.once_more))
    meant = alike[0] if told is not None else next(by_choice, alike[0])
    for name, other in {**meant.under_other_name, **meant.once_more}.items():
        part = f"The {role_words(meant.roles[name])} of {meant.library} {meant.name}"
        message, remedy = "", None
        if told is not None and not told.tied:
            says = f"{printable(told.source)} has `tie_word_embeddings` false"
            message = f"{part} lacks {name}, and {says}, so it is not {other} once more."
        elif told is None and not meant.tied_by_default:
            message = f"{part} lacks {name}, which is {other} once more with `tie_word_embeddings=True`, else missing."
        elif name in meant.under_other_name:
            message = (
                f"{part} has {name} under the name {other} alone, to which it is tied: transformers 5 takes it from "
                "there, and older releases leave it empty."
            )
            remedy = "Load it by transformers 5 or newer and write it anew by `save_pretrained`, for older ones."
        if message:
            yield finding("C013", message, where=meant.roles[name], remedy=remedy)


def _told(said: Sequence[Claim]) -> Claim | None:
    return next((claim for claim in said if claim.tied is not None), None)

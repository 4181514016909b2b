"""Which verdicts on a component are a fault, and which parts share the verdict of another; no numbers are read here."""

from __future__ import annotations

from collections.abc import Iterable

from manifest.schema.vocabulary import Training

TOWERS = {
    "vision_projection": ("vision_tower",),
    "text_projection": ("text_tower",),
    "neck": ("backbone",),
    "head": ("backbone", "vision_tower"),
}
"""Parts that are too small to tell by themselves, and whose verdict they share when that is untrained."""

UNTRAINED = {Training.INITIALISED: "C003", Training.BARELY: "C010"}
"""Verdicts that are a fault beside trained parts, each with its rule."""


def untrained_throughout(verdicts: Iterable[Training]) -> bool:
    """Whether no part of a model that can show training shows more than a few small steps of it."""
    shown = set(verdicts) - {Training.UNKNOWN}
    return bool(shown) and shown <= UNTRAINED.keys()

"""What is said of a checkpoint's numbers in an audit: components that were not trained, odd tensors, a wrong scale."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from manifest.checkpoint import Checkpoint
from manifest.escaping import printable
from manifest.initialisation.untrained import UNTRAINED
from manifest.initialisation.values import sample
from manifest.initialisation.verdict import Anomaly, Evidence
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Training, role_words

_VITAL = frozenset({"vision_projection", "text_projection"})
"""Roles of components that all features go through."""
_GREATEST_SCALE, _GREATEST_SCALE_OF_SIGLIP = 4.7, 5.5
"""Logarithms of scales: CLIP's are clamped to ln 100 = 4.61 while they train; SigLIP's are not, and begin at ln 10."""
_LARGEST_EXPONENT = 700.0
_ANOMALIES = {
    "not-finite": "C006",
    "constant": "C007",
    "all-zero": "C007",
    "hole": "C007",
    "duplicate": "C008",
    "denormal": "C009",
    "fresh-layers": "C005",
}
"""Rules by kinds of anomalies."""


def training_findings(verdicts: Mapping[str, Evidence]) -> list[Finding]:
    """Components that were not trained; all of them is an error here, since nobody downloads noise on purpose."""
    fresh = {role: verdict for role, verdict in verdicts.items() if verdict.training in UNTRAINED}
    if not fresh:
        return []
    if not any(verdict.training is Training.TRAINED for verdict in verdicts.values()):
        moved = next((verdict for verdict in fresh.values() if verdict.training is Training.BARELY), None)
        shown = moved or next(iter(fresh.values()))
        happened = "trained for more than a few small steps" if moved else "ever trained"
        message = f"No part of the weights was {happened}: {'; '.join(shown.reasons)}."
        remedy = "Find out where the trained weights were lost, and get those."
        return [finding(UNTRAINED[shown.training], message, remedy=remedy)]
    return [
        finding(
            UNTRAINED[verdict.training],
            f"The {role_words(role)} was {'never' if verdict.training is Training.INITIALISED else 'barely'} trained, "
            f"and other parts were: {'; '.join(verdict.reasons)}.",
            where=role,
        )
        for role, verdict in fresh.items()
    ]


def exponentiated_scales(stored: Checkpoint, roles: Mapping[str, str]) -> Iterator[Finding]:
    """A scale of logits that is stored itself, where models exponentiate what is stored."""
    greatest = _GREATEST_SCALE if "logit_bias" not in roles.values() else _GREATEST_SCALE_OF_SIGLIP
    for name, role in roles.items():
        tensor = stored.tensors[name]
        if role != "logit_scale" or tensor.numel != 1 or (some := sample(stored, tensor)) is None:
            continue
        value = float(some.values[0])
        if math.isfinite(value) and value > greatest:
            scale = math.exp(min(value, _LARGEST_EXPONENT))
            message = (
                f"{printable(name)} is {value:.6g}, whose exponential is {scale:.1e}; models of this kind store the "
                f"logarithm of their scale, at most {greatest}. That of what is stored is {math.log(value):.3g}."
            )
            yield finding("C011", message, where=printable(name))


def anomaly_finding(odd: Anomaly, roles: Mapping[str, str]) -> Finding:
    """What is odd about some tensors, as a finding; of a component that all features go through it is an error.

    Args:
        odd: The anomaly.
        roles: Role by the name of a tensor.
    """
    names = [printable(name) for name in odd.names[:50]]
    where = names[0] if names else None
    rule, message = _ANOMALIES[odd.kind], printable(odd.message, 900)
    if odd.kind == "hole":
        remedy = "Get the file again: a download was cut, or never finished."
        return finding(rule, message, where=where, tensors=names, severity=Severity.ERROR, remedy=remedy)
    if odd.kind == "all-zero" and any(roles.get(name) in _VITAL for name in odd.names):
        remedy = "Get weights that have it: every feature that goes through it is zero, and all inputs get one answer."
        return finding(rule, message, where=where, tensors=names, severity=Severity.ERROR, remedy=remedy)
    return finding(rule, message, where=where, tensors=names)

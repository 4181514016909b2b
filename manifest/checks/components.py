"""Which parts of a model a checkpoint holds, and whether they were ever trained.

Completeness is a matter of names. Training is a matter of numbers, and of `initialisation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from manifest.checkpoint import Checkpoint
from manifest.digests import weights_digest
from manifest.escaping import printable
from manifest.initialisation.untrained import TOWERS, UNTRAINED, untrained_throughout
from manifest.schema.document import Component
from manifest.schema.name_ranges import shortened
from manifest.schema.report import Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Status, Training, component_tensors, prefixes, role_words

_STATES = {
    Training.INITIALISED: ("was never trained", "as their initialiser left them"),
    Training.BARELY: ("was barely trained", "within a few small steps of where their initialiser left them"),
}
_NO_PART = {
    Training.INITIALISED: "No part of the model was ever trained: every part is as its initialiser left it.",
    Training.BARELY: "No part of the model was trained for more than a few small steps.",
}


def assess(
    roles: Mapping[str, str], checkpoint: Checkpoint, digests: Mapping[str, str], by_design: Iterable[str] = ()
) -> list[Component]:
    """The components of an architecture as a checkpoint holds them.

    Args:
        roles: The role of every tensor that the architecture expects.
        checkpoint: The weights.
        digests: Digest of each of its tensors.
        by_design: Roles declared to be absent or untrained on purpose.
    """
    declared = set(by_design)
    training = _training(roles, checkpoint)
    components = []
    for role in dict.fromkeys(roles.values()):
        names = [name for name in roles if roles[name] == role]
        present = [name for name in names if name in checkpoint.tensors]
        missing = [name for name in names if name not in checkpoint.tensors]
        status = Status.COMPLETE if not missing else Status.PARTIAL if present else Status.ABSENT
        components.append(
            Component(
                role=role,
                prefixes=prefixes(names, [name for name in roles if roles[name] != role]),
                expected=len(names),
                present=len(present),
                missing=missing if status is Status.PARTIAL else [],
                status=status,
                by_design=role in declared,
                training=training[role],
                digest=weights_digest((name, digests[name]) for name in present),
            )
        )
    return components


def reassess(
    components: Sequence[Component], expected: Iterable[str], checkpoint: Checkpoint, *, numbers: bool = True
) -> list[Component]:
    """Recorded components against the file as it is now: names and numbers, without the architecture.

    Args:
        components: As the manifest records them.
        expected: Names of all tensors that the manifest lists.
        checkpoint: The file.
        numbers: Read the values and judge them; else the recorded verdicts stand.
    """
    members = {part.role: component_tensors(part.prefixes, expected) for part in components}
    roles = {name: role for role, names in members.items() for name in names}
    training = _training(roles, checkpoint) if numbers else {part.role: part.training for part in components}
    found = []
    for part in components:
        missing = [*part.missing, *(name for name in members[part.role] if name not in checkpoint.tensors)]
        present = part.expected - len(missing) if part.status is not Status.ABSENT else 0
        status = Status.ABSENT if present <= 0 else Status.PARTIAL if missing else Status.COMPLETE
        update = {
            "present": max(present, 0),
            "missing": missing,
            "status": status,
            "training": training.get(part.role, Training.UNKNOWN),
        }
        found.append(part.model_copy(update=update))
    return found


def component_findings(components: Sequence[Component], subject: str) -> list[Finding]:
    """What is wrong with some components: missing, partial, or initialised beside trained ones."""
    findings = []
    absent = [part.role for part in components if part.status is Status.ABSENT and not part.by_design]
    for part in components:
        if part.by_design:
            continue
        words = role_words(part.role)
        if part.status is Status.ABSENT:
            message = f"The {words} is not in {subject}: none of its {part.expected} tensors."
            remedy = printable(
                f"Get a checkpoint with every tower; if that is by design, say so when you save it: `partial={absent}` "
                f"(`--partial {','.join(absent)}`).",
                400,
            )
            findings.append(finding("C001", message, where=part.role, remedy=remedy, prefixes=part.prefixes))
        elif part.status is Status.PARTIAL:
            message = f"The {words} has {part.present} of {part.expected} tensors; {shortened(part.missing)} missing."
            findings.append(finding("C002", message, where=part.role, missing=part.missing[:50]))
    return findings + _training_findings(components)


def _training(roles: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, Training]:
    from manifest.initialisation.values import expect_samples  # imports numpy
    from manifest.initialisation.verdict import evidence

    if checkpoint.mirror is not None:
        expect_samples(checkpoint)
    return {role: found.training for role, found in evidence(roles, checkpoint).items()}


def _training_findings(components: Sequence[Component]) -> list[Finding]:
    fresh = [part for part in components if part.training in UNTRAINED and not part.by_design]
    if not fresh:
        return []
    if untrained_throughout(part.training for part in components):
        remedy = "Nothing to do if that is meant, as for a test; otherwise find out where the weights were lost."
        moved = any(part.training is Training.BARELY for part in fresh)
        verdict = Training.BARELY if moved else Training.INITIALISED
        return [finding(UNTRAINED[verdict], _NO_PART[verdict], severity=Severity.NOTE, remedy=remedy)]
    untrained = {part.role for part in fresh}
    # What was saved early in a training has barely moved and is no fault; an audit of a download has no such excuse.
    severities = {Training.INITIALISED: Severity.ERROR, Training.BARELY: Severity.WARNING}
    return [
        finding(
            UNTRAINED[part.training],
            _untrained(part, untrained),
            where=part.role,
            prefixes=part.prefixes,
            severity=severities[part.training],
        )
        for part in fresh
    ]


def _untrained(part: Component, untrained: set[str]) -> str:
    words, (did, are) = role_words(part.role), _STATES[part.training]
    if untrained & set(TOWERS.get(part.role, ())):
        return f"The {words} belongs to a tower that {did}."
    return f"The {words} {did}, and other parts were trained: its numbers are {are}."


def absent_by_design(components: Sequence[Component], roles: dict[str, str]) -> frozenset[str]:
    """Names of the tensors that a checkpoint may lack because their component was declared so."""
    declared = {part.role for part in components if part.by_design}
    return frozenset(name for name, role in roles.items() if role in declared)

"""Which parts of a model a checkpoint holds, and whether they were ever trained.

Completeness is a matter of names. Training is a matter of numbers: a fresh initialisation sets every norm's weight to
exactly 1 (or 0, where a residual branch starts closed) and its bias to exactly 0, and a hundred optimizer steps leave
none of them so. One untouched norm is no evidence, since trained files contain some; all norms of a component are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from manifest.checkpoint import Checkpoint, StoredTensor
from manifest.digests import weights_digest
from manifest.document import Component, Status, Training, component_tensors, prefixes
from manifest.dotted_names import shortened
from manifest.findings import Finding, Severity, finding

_FEWEST_NORMS = 2
_ONE = {
    "bfloat16": b"\x80\x3f",
    "float16": b"\x00\x3c",
    "float32": b"\x00\x00\x80\x3f",
    "float64": b"\x00\x00\x00\x00\x00\x00\xf0\x3f",
}
"""The number 1, little-endian, by type: with it, a pristine norm is told by its bytes."""
_TOWER_OF = {"vision_projection": "vision_tower", "text_projection": "text_tower"}


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


def reassess(components: Sequence[Component], expected: Iterable[str], checkpoint: Checkpoint) -> list[Component]:
    """Recorded components against the file as it is now: names and numbers, without the architecture.

    Args:
        components: As the manifest records them.
        expected: Names of all tensors that the manifest lists.
        checkpoint: The file.
    """
    members = {part.role: component_tensors(part.prefixes, expected) for part in components}
    roles = {name: role for role, names in members.items() for name in names}
    training = _training(roles, checkpoint)
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
    for part in components:
        if part.by_design:
            continue
        words = part.role.replace("_", " ")
        if part.status is Status.ABSENT:
            message = f"The {words} is not in {subject}: none of its {part.expected} tensors."
            findings.append(finding("C001", message, where=part.role, prefixes=part.prefixes))
        elif part.status is Status.PARTIAL:
            message = f"The {words} has {part.present} of {part.expected} tensors; {shortened(part.missing)} missing."
            findings.append(finding("C002", message, where=part.role, missing=part.missing[:50]))
    return findings + _training_findings(components)


def initialised_throughout(components: Sequence[Component]) -> bool:
    """Whether no part of the model that can show training shows any."""
    shown = {part.training for part in components} - {Training.UNKNOWN}
    return shown == {Training.INITIALISED}


def _training(roles: Mapping[str, str], checkpoint: Checkpoint) -> dict[str, Training]:
    """The verdict on each role; a projection or scale has no norms and shares its tower's, when that is untrained."""
    verdicts = {
        role: _tower_training([name for name in roles if roles[name] == role], checkpoint)
        for role in dict.fromkeys(roles.values())
    }
    for projection, tower in _TOWER_OF.items():
        if verdicts.get(projection) is Training.UNKNOWN and verdicts.get(tower) is Training.INITIALISED:
            verdicts[projection] = Training.INITIALISED
    return verdicts


def _tower_training(names: Sequence[str], checkpoint: Checkpoint) -> Training:
    pristine = [_is_pristine(weight, bias, checkpoint) for weight, bias in _norms(names, checkpoint)]
    if len(pristine) < _FEWEST_NORMS:
        return Training.UNKNOWN
    return Training.INITIALISED if all(pristine) else Training.TRAINED


def _norms(names: Sequence[str], checkpoint: Checkpoint) -> list[tuple[StoredTensor, StoredTensor]]:
    """Weight and bias of each norm: two tensors of one dimension and one length under one stem."""
    tensors = checkpoint.tensors
    found = []
    for name in names:
        weight, bias = tensors.get(name), tensors.get(f"{name.removesuffix('weight')}bias")
        if name.endswith(".weight") and weight and bias and len(weight.shape) == 1 and weight.shape == bias.shape:
            found.append((weight, bias))
    return found


def _is_pristine(weight: StoredTensor, bias: StoredTensor, checkpoint: Checkpoint) -> bool:
    if not weight.numel or weight.dtype not in _ONE:
        return False
    values, offsets = checkpoint.values(weight), checkpoint.values(bias)
    ones = values == _ONE[weight.dtype] * weight.numel
    return (ones or values == bytes(len(values))) and offsets == bytes(len(offsets))


def _training_findings(components: Sequence[Component]) -> list[Finding]:
    fresh = [part for part in components if part.training is Training.INITIALISED and not part.by_design]
    if not fresh:
        return []
    if initialised_throughout(components):
        message = "No part of the model was ever trained: every norm is as its initialiser left it."
        remedy = "Nothing to do if that is meant, as for a test; otherwise find out where the weights were lost."
        return [finding("C003", message, severity=Severity.NOTE, remedy=remedy)]
    return [
        finding(
            "C003",
            f"The {part.role.replace('_', ' ')} was never trained, and other parts were: "
            f"all of its norms are as their initialiser left them."
            if part.role not in _TOWER_OF
            else f"The {part.role.replace('_', ' ')} belongs to a tower that was never trained.",
            where=part.role,
            prefixes=part.prefixes,
        )
        for part in fresh
    ]

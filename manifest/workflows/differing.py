"""What changed between two checkpoints: weights by component, architecture by module, and outputs by layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from manifest.document import component_tensors, role_words
from manifest.dotted_names import listed
from manifest.findings import Finding, Kind, Report, finding
from manifest.grants import granted
from manifest.module_tree import changes, grouped, unfold
from manifest.workflows.climbing import Climbed, ascend
from manifest.workflows.subject import Subject, open_subject


def diff(
    one: str | os.PathLike[str], other: str | os.PathLike[str], *, outputs: bool = False, allow: tuple[str, ...] = ()
) -> Report:
    """Compare two checkpoints with manifests.

    Args:
        one: The reference.
        other: What is compared with it.
        outputs: Run both on the same probe, and find the first layer that departs.
        allow: Modules of your own that may be imported to rebuild the models.

    Returns:
        A rung each for weights, architecture and outputs; the exit code is 1 where they differ.

    Raises:
        NoManifestError: One of them has no manifest.
    """
    first, second = open_subject(one), open_subject(other)
    try:
        rungs: list[tuple[str, Callable[[], Climbed]]] = [
            ("weights", lambda: _weights(first, second)),
            ("architecture", lambda: _architecture(first, second)),
        ]
        if outputs:
            rungs.append(("outputs", lambda: _outputs(first, second)))
        with granted(allow):
            return ascend(Kind.DIFF, f"{first.path.name} → {second.path.name}", rungs)
    finally:
        first.close()
        second.close()


def _weights(first: Subject, second: Subject) -> Climbed:
    then, now = ({t.name: t for t in each.manifest.weights.tensors} for each in (first, second))
    changed = [name for name in then if name in now and then[name].digest != now[name].digest]
    gone, added = [name for name in then if name not in now], [name for name in now if name not in then]
    if not (changed or gone or added):
        return Climbed("the same weights")
    findings = []
    for part in second.manifest.components:
        members, all_of = component_tensors(part.prefixes, changed), component_tensors(part.prefixes, list(now))
        if members:
            words = role_words(part.role)
            message = f"In the {words}, {len(members)} of {len(all_of)} tensors differ: {listed(members)}."
            findings.append(_difference("I002", message, part.role))
    if gone:
        findings.append(_difference("I002", f"Only in {first.path.name}: {listed(gone)}.", "weights"))
    if added:
        findings.append(_difference("I002", f"Only in {second.path.name}: {listed(added)}.", "weights"))
    words = f"{len(changed)} of {len(now.keys() & then.keys())} tensors differ, {len(gone)} gone, {len(added)} added"
    return Climbed(words, findings)


def _architecture(first: Subject, second: Subject) -> Climbed:
    then, now = first.manifest.architecture, second.manifest.architecture
    findings = []
    if then.structure != now.structure:
        different = grouped(changes(unfold(then.modules), unfold(now.modules)))
        findings.append(_difference("A002", f"The modules differ: {different}.", "architecture.structure"))
    for name, rule in (("preprocess", "A006"), ("tokenizer", "A006")):
        before, after = getattr(then, name), getattr(now, name)
        if before != after:
            message = f"The {name} differs: {_settings(before, after)}."
            findings.append(_difference(rule, message, f"architecture.{name}"))
    return Climbed("they differ" if findings else "the same modules, preprocessing and tokenizer", findings)


def _settings(before: Any, after: Any) -> str:
    if before is None or after is None:
        return f"{'none' if before is None else 'one'} → {'none' if after is None else 'one'}"
    one, other = before.model_dump(), after.model_dump()
    return ", ".join(f"{name} {one.get(name)} → {value}" for name, value in other.items() if one.get(name) != value)


def _outputs(first: Subject, second: Subject) -> Climbed:
    """Both models on the reference's own inputs, layer by layer."""
    from manifest.workflows.departing import departure

    found = departure(first, second)
    if found is None:
        return Climbed("the family has no probe for this model", skipped=True)
    if not found.message:
        return Climbed("the same bit for bit, in every layer")
    rule = finding("G001", found.message, where="outputs", remedy=_REMEDY, layers=found.layers)
    return Climbed(f"{found.departed} of {len(found.layers)} layers differ", [rule])


_REMEDY = "Keep the one that is meant."


def _difference(rule: str, message: str, where: str) -> Finding:
    return finding(rule, message, where=where, remedy=_REMEDY)

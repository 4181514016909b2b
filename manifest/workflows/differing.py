"""What changed between two checkpoints: weights by component, architecture by module, and outputs by layer.

Weights are compared by their bytes, which the manifests only name and group; architectures are compared as recorded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifest.checkpoint import Checkpoint
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.checks.target import VerificationTarget, open_target
from manifest.escaping import printable
from manifest.fingerprints.module_tree import changes, grouped, unfold
from manifest.grants import granted
from manifest.progress import Follower, followed
from manifest.schema.document import Component
from manifest.schema.name_ranges import listed
from manifest.schema.report import Finding, Kind, Report, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import component_tensors, role_words


@followed
def diff(
    one: str | os.PathLike[str],
    other: str | os.PathLike[str],
    *,
    outputs: bool = False,
    allow: tuple[str, ...] = (),
    progress: Follower = None,
) -> Report:
    """Compare two checkpoints with manifests.

    Args:
        one: The reference.
        other: What is compared with it.
        outputs: Run both on the same probe, and find the first layer that departs.
        allow: Modules of your own that may be imported to rebuild the models.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        A rung each for integrity (whether both are what their manifests describe, so that these can speak for them),
        weights, architecture and outputs; the exit code is 1 where they differ.

    Raises:
        NoManifestError: One of them has no manifest.
        CheckpointError: One of them cannot be read.

    Example:
        >>> import torch
        >>> model = manifest.load("ckpt.pt")
        >>> with torch.no_grad():
        ...     _ = model.logit_scale.add_(1)
        >>> _ = manifest.save(model, "next.pt", golden=False)
        >>> report = manifest.diff("ckpt.pt", "next.pt")
        >>> report.exit_code
        1
        >>> [finding.message for finding in report.findings()]
        ['In the logit scale, 1 of 1 tensors differ: logit_scale.']
    """
    del progress  # `followed` takes it
    first, second = open_target(one), open_target(other)
    try:
        models = _models(first), _models(second)
        rungs: list[tuple[str, Callable[[], CheckResult]]] = [
            ("integrity", lambda: _integrity((first, models[0]), (second, models[1]))),
            ("weights", lambda: _weights((first, models[0]), (second, models[1]))),
            ("architecture", lambda: _architecture(first, second)),
        ]
        if outputs:
            rungs.append(("outputs", lambda: _outputs(first, second)))
        with granted(allow):
            return run_ladder(Kind.DIFF, f"{first.path.name} → {second.path.name}", rungs)
    finally:
        first.close()
        second.close()


@dataclass(frozen=True)
class _Weights:
    """The weights of one model in a checkpoint.

    Attributes:
        digests: Of its tensors, by the bytes that are there.
        recorded: The same as the manifest has them.
        components: By which tensors are grouped.
    """

    digests: Mapping[str, str]
    recorded: Mapping[str, str]
    components: Sequence[Component]


_Side = tuple[VerificationTarget, Mapping[str, _Weights]]
"""One of the two checkpoints, and the weights of each model in it by the keys that lead there."""


def _models(subject: VerificationTarget) -> dict[str, _Weights]:
    """The weights of the model that is meant, under an empty key, and of the others in the checkpoint."""
    models = {"": _weights_of(subject)}
    for other in subject.others():
        models[printable(".".join(other.manifest.checkpoint.state.path))] = _weights_of(other)
    return models


def _weights_of(subject: VerificationTarget) -> _Weights:
    if not isinstance(subject.stored, Checkpoint):
        raise subject.stored
    stored, manifest = subject.stored, subject.manifest
    digests = {name: stored.digest(tensor) for name, tensor in stored.tensors.items()}
    return _Weights(digests, {each.name: each.digest for each in manifest.weights.tensors}, manifest.components)


def _integrity(*sides: _Side) -> CheckResult:
    """Whether both hold the weights that their manifests describe; what else these say is about those."""
    findings = []
    for subject, models in sides:
        name = printable(subject.path.name)
        for state, model in models.items():
            names = model.digests.keys() | model.recorded.keys()
            stale = [each for each in names if model.digests.get(each) != model.recorded.get(each)]
            if stale:
                message = (
                    f"The manifest of {name} describes other weights than it holds, in {len(stale)} of {len(names)} "
                    "tensors; so it may describe another model, too."
                )
                remedy = f"Find out which of them is right: `manifest verify {name}`."
                findings.append(finding("I002", message, where=f"{name}: {state}" if state else name, remedy=remedy))
    words = "a manifest is of other weights" if findings else "both hold the weights that their manifests describe"
    return CheckResult(words, findings)


def _weights(first: _Side, second: _Side) -> CheckResult:
    findings, counts = [], []
    for state in dict.fromkeys([*first[1], *second[1]]):
        then, now = first[1].get(state), second[1].get(state)
        if then is None or now is None:
            name = printable((first if now is None else second)[0].path.name)
            findings.append(_difference("I002", f"Only {name} has a model under {state}.", state))
            continue
        found = _changed(then, now, (printable(first[0].path.name), printable(second[0].path.name)))
        findings += [each.model_copy(update={"where": f"{state}: {each.where}"}) if state else each for each in found]
        if found:
            counts.append(f"{state}: {_counted(then, now)}" if state else _counted(then, now))
    words = "; ".join(counts) or ("they hold other models" if findings else "the same weights")
    return CheckResult(words, [*findings, *_not_compared(first[0], second[0])])


def _not_compared(*subjects: VerificationTarget) -> list[Finding]:
    """Tensors whose values cannot be listed, of which nobody knows whether they are the same."""
    findings = []
    for subject in subjects:
        if isinstance(subject.stored, Checkpoint) and subject.stored.unlisted:
            names = printable(listed(list(subject.stored.unlisted)), 300)
            message = f"Of {printable(subject.path.name)}, these cannot be listed and were not compared: {names}."
            remedy = "Compare the outputs: `manifest diff A B --outputs`."
            findings.append(finding("F004", message, where="weights", severity=Severity.WARNING, remedy=remedy))
    return findings


def _changed(then: _Weights, now: _Weights, names: tuple[str, str]) -> list[Finding]:
    """What two models do not have in common, by component as far as tensors belong to one."""
    changed = [name for name, digest in then.digests.items() if now.digests.get(name, digest) != digest]
    findings, rest = [], set(changed)
    for part in now.components:
        members = component_tensors(part.prefixes, changed)
        if members:
            rest -= set(members)
            total = len(component_tensors(part.prefixes, list(now.digests)))
            message = f"In the {printable(role_words(part.role))}, {len(members)} of {total} tensors differ"
            findings.append(_difference("I002", f"{message}: {_listed(members)}.", printable(part.role)))
    if rest:
        findings.append(_difference("I002", f"In no component, and different: {_listed(sorted(rest))}.", "weights"))
    for own, other, name in ((then, now, names[0]), (now, then, names[1])):
        if only := [each for each in own.digests if each not in other.digests]:
            findings.append(_difference("I002", f"Only in {name}: {_listed(only)}.", "weights"))
    return findings


def _counted(then: _Weights, now: _Weights) -> str:
    shared = then.digests.keys() & now.digests.keys()
    differ = sum(then.digests[name] != now.digests[name] for name in shared)
    gone, added = len(then.digests.keys() - shared), len(now.digests.keys() - shared)
    return f"{differ} of {len(shared)} tensors differ, {gone} gone, {added} added"


def _listed(names: Sequence[str]) -> str:
    return printable(listed(names), 300)


def _architecture(first: VerificationTarget, second: VerificationTarget) -> CheckResult:
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
    return CheckResult(
        "they differ" if findings else "the same modules, preprocessing and tokenizer on record", findings
    )


def _settings(before: Any, after: Any) -> str:
    if before is None or after is None:
        return f"{'none' if before is None else 'one'} → {'none' if after is None else 'one'}"
    one, other = before.model_dump(), after.model_dump()
    return ", ".join(f"{name} {one.get(name)} → {value}" for name, value in other.items() if one.get(name) != value)


def _outputs(first: VerificationTarget, second: VerificationTarget) -> CheckResult:
    """Both models on the reference's own inputs, layer by layer."""
    from manifest.workflows.first_divergence import departure

    if first.manifest.architecture.family != second.manifest.architecture.family:
        return _outputs_across_libraries(first, second)
    found = departure(first, second)
    if found is None:
        return CheckResult("the family has no probe for this model", skipped=True)
    if not found.message:
        return CheckResult("the same bit for bit, in every layer")
    rule = finding("G001", found.message, where="outputs", remedy=_REMEDY, layers=found.layers)
    return CheckResult(f"{found.departed} of {len(found.layers)} layers differ", [rule])


def _outputs_across_libraries(first: VerificationTarget, second: VerificationTarget) -> CheckResult:
    """Two models of two libraries on the reference's own inputs, as far as they give the same quantities."""
    from manifest.checks.explanation import recorded_model
    from manifest.workflows.across_libraries import across_libraries

    original, other = recorded_model(first), recorded_model(second)
    inputs = original.family.inputs(original.architecture)
    found = None if inputs is None else across_libraries(original, other.family, other.built.module, inputs)
    return found or CheckResult("models of these two libraries give nothing that can be compared", skipped=True)


_REMEDY = "Keep the one that is meant."


def _difference(rule: str, message: str, where: str) -> Finding:
    return finding(rule, message, where=where, remedy=_REMEDY)

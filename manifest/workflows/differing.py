"""What changed between two checkpoints: weights by component, architecture by module, and outputs by layer.

Weights are compared by their bytes, which manifests only name and group; of a manifest alone, by the digests and the
sketches that it has of them.
Architectures are compared as recorded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.checks.target import VerificationTarget, open_target
from manifest.errors import NoManifestError
from manifest.escaping import printable
from manifest.fingerprints.module_tree import changes, grouped, unfold
from manifest.grants import granted
from manifest.identification.identify import identify
from manifest.kinship.estimating import estimated
from manifest.progress import Follower, followed
from manifest.schema.document import LARGEST, CheckpointRecord, Manifest, Model, Weights, parse
from manifest.schema.name_ranges import listed
from manifest.schema.report import Finding, Kind, Report, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Training, component_tensors, role_words
from manifest.storage.bounded_read import read_small
from manifest.storage.sidecars import described_checkpoint, has_manifest, is_manifest
from manifest.weights.distance import Moved, moved

_MOST_RENAMED = 5


@followed
def diff(
    one: str | os.PathLike[str],
    other: str | os.PathLike[str],
    *,
    outputs: bool = False,
    allow: tuple[str, ...] = (),
    progress: Follower = None,
) -> Report:
    """Compare two checkpoints, with manifests or without, or manifests alone.

    Args:
        one: The reference: a checkpoint, or a manifest.
        other: What is compared with it.
        outputs: Run both on the same probe, and find the first layer that departs.
        allow: Modules of your own that may be imported to rebuild the models.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        A rung each for integrity (whether both are what their manifests describe, so that these can speak for them),
        weights, architecture and outputs; the exit code is 1 where they differ.

    Raises:
        NoManifestError: Outputs are asked for, and one of them has no manifest.
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
        >>> [finding.message.partition(";")[0] for finding in report.findings()]
        ['In the logit scale, 1 of 1 tensors differ: logit_scale']
    """
    del progress  # `followed` takes it
    first = _opened(one)
    try:
        second = _opened(other)
        if first.name == second.name:
            first, second = (replace(side, name=printable(str(side.path), 200)) for side in (first, second))
        try:
            rungs: list[tuple[str, Callable[[], CheckResult]]] = [
                ("integrity", lambda: _integrity(first, second)),
                ("weights", lambda: _weights(first, second)),
                ("architecture", lambda: _architecture(first, second)),
            ]
            if outputs:
                targets = _target(first), _target(second)
                rungs.append(("outputs", lambda: _outputs(*targets)))
            with granted(allow):
                return run_ladder(Kind.DIFF, f"{first.name} → {second.name}", rungs)
        finally:
            second.close()
    finally:
        first.close()


def only_in(place: str, name: str) -> Report:
    """A report that one of two places has a checkpoint of this name and the other has none."""
    message = f"Only {printable(place, 200)} has {printable(name, 200)}."
    found = finding("F008", message, where=printable(name, 200), remedy=_REMEDY_OF_FOLDERS)
    return run_ladder(Kind.DIFF, name, [("files", lambda: CheckResult(f"only in {printable(place, 200)}", [found]))])


@dataclass(frozen=True)
class _Weights:
    """The weights of one model in a checkpoint.

    Attributes:
        digests: Of its tensors: by the bytes that are there, or as recorded where there is a manifest alone.
        recorded: The same as the manifest has them; empty where there is none.
        roles: The component of each tensor that belongs to one.
        initialised: Components that were never trained, as far as that is on record.
        stored: The tensors themselves; None where there is a manifest alone.
        described: What the manifest says of them; None where there is none.
    """

    digests: Mapping[str, str]
    recorded: Mapping[str, str]
    roles: Mapping[str, str]
    initialised: frozenset[str]
    stored: Checkpoint | None
    described: Weights | None


@dataclass(frozen=True)
class _Side:
    """One of the two: a checkpoint with or without a manifest, or a manifest alone.

    Attributes:
        path: As it was named, or the described file in it.
        name: What it is called in sentences.
        manifest: What is on record.
        models: The weights of the model that is meant, under an empty key, and of others by the keys that lead there.
        target: The checkpoint with its manifest.
        stored: The open file.
    """

    path: Path
    name: str
    manifest: Manifest | None
    models: Mapping[str, _Weights]
    target: VerificationTarget | None = None
    stored: Checkpoint | None = None

    def close(self) -> None:
        if self.target is not None:
            self.target.close()
        elif self.stored is not None:
            self.stored.close()


def _opened(named: str | os.PathLike[str]) -> _Side:
    """A checkpoint with its manifest, one without, or a manifest alone."""
    path = Path(named)
    if is_manifest(path):
        manifest = parse(read_small(path, "manifest", most=LARGEST), source=path.name)
        models = {"": manifest, **{_state(each): manifest.meaning(each) for each in manifest.others}}
        return _Side(
            path, printable(path.name), manifest, {state: _weights_of(None, each) for state, each in models.items()}
        )
    path = described_checkpoint(path)
    if has_manifest(path):
        target = open_target(path)
        subjects = {"": target, **{_state(each.manifest.checkpoint): each for each in target.others()}}
        weights = {state: _weights_of(_stored(each), each.manifest) for state, each in subjects.items()}
        return _Side(path, printable(path.name), target.manifest, weights, target, _stored(target))
    stored = open_checkpoint(path)
    return _Side(path, printable(path.name), None, {"": _weights_of(stored, None)}, stored=stored)


def _state(of: Model | CheckpointRecord) -> str:
    return printable(".".join(of.state.path))


def _stored(target: VerificationTarget) -> Checkpoint:
    if not isinstance(target.stored, Checkpoint):
        raise target.stored
    return target.stored


def _target(side: _Side) -> VerificationTarget:
    if side.target is None:
        raise NoManifestError(
            f"Outputs are those of models that can be built, and {side.name} has no file or no manifest beside it; "
            "leave out --outputs, or write a manifest with `manifest create`."
        )
    return side.target


def _weights_of(stored: Checkpoint | None, manifest: Manifest | None) -> _Weights:
    recorded = {} if manifest is None else {each.name: each.digest for each in manifest.weights.tensors}
    digests = recorded if stored is None else {name: stored.digest(each) for name, each in stored.tensors.items()}
    roles: dict[str, str] = {}
    initialised = frozenset[str]()
    if manifest is not None:
        for part in manifest.components:
            roles |= dict.fromkeys(component_tensors(part.prefixes, list(digests)), part.role)
        initialised = frozenset(
            part.role for part in manifest.components if part.training in (Training.INITIALISED, Training.BARELY)
        )
    elif stored is not None:
        known = identify(stored.shapes, [str(key) for key in stored.extras], stored.prefix).candidates
        if known and known[0].exact:
            roles = {known[0].stored[name]: role for name, role in known[0].roles.items() if name in known[0].stored}
    return _Weights(digests, recorded, roles, initialised, stored, None if manifest is None else manifest.weights)


def _integrity(*sides: _Side) -> CheckResult:
    """Whether both hold the weights that their manifests describe; what else these say is about those."""
    findings = []
    described = [side for side in sides if side.target is not None]
    for side in described:
        for state, model in side.models.items():
            names = model.digests.keys() | model.recorded.keys()
            stale = [each for each in names if model.digests.get(each) != model.recorded.get(each)]
            if stale:
                message = (
                    f"The manifest of {side.name} describes other weights than it holds, in {len(stale)} of "
                    f"{len(names)} tensors; so it may describe another model, too."
                )
                remedy = f"Find out which of them is right: `manifest verify {side.name}`."
                where = f"{side.name}: {state}" if state else side.name
                findings.append(finding("I002", message, where=where, remedy=remedy))
    if not described:
        return CheckResult("neither is a file with a manifest", skipped=True)
    words = "both hold the weights that their manifests describe"
    if len(described) == 1:
        words = f"{described[0].name} holds the weights that its manifest describes"
    return CheckResult("a manifest is of other weights" if findings else words, findings)


def _weights(first: _Side, second: _Side) -> CheckResult:
    findings, counts = [], []
    for state in dict.fromkeys([*first.models, *second.models]):
        then, now = first.models.get(state), second.models.get(state)
        if then is None or now is None:
            name = (first if now is None else second).name
            findings.append(_difference("I002", f"Only {name} has a model under {state}.", state))
            continue
        renamed = _renamed(then, now)
        found = _changed(then, now, renamed, (first.name, second.name))
        findings += [each.model_copy(update={"where": f"{state}: {each.where}"}) if state else each for each in found]
        if found:
            counted = _counted(then, now, len(renamed))
            counts.append(f"{state}: {counted}" if state else counted)
    words = "; ".join(counts) or ("they hold other models" if findings else "the same weights")
    return CheckResult(words, [*findings, *_not_compared(first, second)])


def _not_compared(*sides: _Side) -> list[Finding]:
    """Tensors whose values cannot be listed, of which nobody knows whether they are the same."""
    findings = []
    for side in sides:
        if side.stored is not None and side.stored.unlisted:
            names = printable(listed(list(side.stored.unlisted)), 300)
            message = f"Of {side.name}, these cannot be listed and were not compared: {names}."
            remedy = "Compare the outputs: `manifest diff A B --outputs`."
            findings.append(finding("F004", message, where="weights", severity=Severity.WARNING, remedy=remedy))
    return findings


def _changed(then: _Weights, now: _Weights, renamed: Mapping[str, str], names: tuple[str, str]) -> list[Finding]:
    """What two models do not have in common, by component as far as tensors belong to one."""
    changed = [name for name, digest in then.digests.items() if now.digests.get(name, digest) != digest]
    distances = _distances(then, now, changed)
    findings = []
    roles = {**then.roles, **now.roles}
    for role in [*dict.fromkeys(role for name, role in roles.items() if name in now.digests), None]:
        members = [name for name in changed if roles.get(name) == role]
        if not members:
            continue
        total = sum(roles.get(name) == role for name in now.digests)
        message = f"In the {printable(role_words(role))}" if role is not None else "In no component"
        message += f", {len(members)} of {total} tensors differ: {_listed(members)}"
        measured = {name: distances[name] for name in members if name in distances}
        evidence: dict[str, Any] = {}
        if measured:
            most = max(measured, key=lambda name: measured[name].relative)
            whole = Moved.together(list(measured.values()))
            evidence = {"moved": whole.relative, "most": printable(most)}
            message += f"; moved by {whole.relative:.1e} (relative L2)"
            message += f", most {printable(most)} ({measured[most].relative:.1e})" if len(measured) > 1 else ""
            if whole.error:
                evidence["error"] = whole.error
                message += f", estimated from sketches to {whole.error:.0%}"
        if role in now.initialised - then.initialised:
            message += "; it was trained in the first and is initialised anew in the second"
        where = "weights" if role is None else printable(role)
        findings.append(_difference("I002", f"{message}.", where, **evidence))
    if renamed:
        shown = [f"{old} → {new}" for old, new in list(renamed.items())[:_MOST_RENAMED]]
        more = f" and {len(renamed) - len(shown)} more" if len(renamed) > len(shown) else ""
        message = f"{len(renamed)} tensors have other names: {printable(', '.join(shown), 300)}{more}."
        findings.append(_difference("I002", message, "weights"))
    for own, other, name in ((then, now, names[0]), (now, then, names[1])):
        passed_over = renamed.keys() | set(renamed.values())
        if only := [each for each in own.digests if each not in other.digests and each not in passed_over]:
            findings.append(_difference("I002", f"Only in {name}: {_listed(only)}.", "weights"))
    return findings


def _distances(then: _Weights, now: _Weights, names: Sequence[str]) -> dict[str, Moved]:
    """How far each of some tensors moved, where their values are comparable: measured, or estimated from manifests."""
    one, other = then.stored, now.stored
    if one is None or other is None:
        sides = one or then.described, other or now.described
        return {} if sides[0] is None or sides[1] is None else estimated(sides[0], sides[1], names)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda name: moved(one, one.tensors[name], other, other.tensors[name]), names)
        return {name: each for name, each in zip(names, found, strict=True) if each is not None}


def _renamed(then: _Weights, now: _Weights) -> dict[str, str]:
    """Tensors of one that the other has under another name, where no two have the same values."""
    gone = {name: digest for name, digest in then.digests.items() if name not in now.digests}
    new = {digest: name for name, digest in now.digests.items() if name not in then.digests}
    counts = Counter(gone.values())
    return {name: new[digest] for name, digest in gone.items() if digest in new and counts[digest] == 1}


def _counted(then: _Weights, now: _Weights, renamed: int) -> str:
    shared = then.digests.keys() & now.digests.keys()
    differ = sum(then.digests[name] != now.digests[name] for name in shared)
    gone, added = len(then.digests.keys() - shared) - renamed, len(now.digests.keys() - shared) - renamed
    words = f"{differ} of {len(shared)} tensors differ, {gone} gone, {added} added"
    return f"{words}, {renamed} renamed" if renamed else words


def _listed(names: Sequence[str]) -> str:
    return printable(listed(names), 300)


def _architecture(first: _Side, second: _Side) -> CheckResult:
    if first.manifest is None or second.manifest is None:
        return CheckResult(f"{(first if first.manifest is None else second).name} has no manifest", skipped=True)
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
    from manifest.golden.layers import finite
    from manifest.workflows.first_divergence import departure

    if first.manifest.architecture.family != second.manifest.architecture.family:
        return _outputs_across_libraries(first, second)
    found = departure(first, second)
    if found is None:
        return CheckResult("the family has no probe for this model", skipped=True)
    if not found.message:
        return CheckResult("the same bit for bit, in every layer")
    rule = finding("G001", found.message, where="outputs", remedy=_REMEDY, layers=finite(found.layers))
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
_REMEDY_OF_FOLDERS = "Copy it into the other place, or compare two that hold the same checkpoints."


def _difference(rule: str, message: str, where: str, **evidence: Any) -> Finding:
    return finding(rule, message, where=where, remedy=_REMEDY, **evidence)

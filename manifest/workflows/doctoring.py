"""Is this model deterministic here, and if not, why: what is in question, what runs, what is set, and experiments."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from manifest.checks.explanation import recorded_model
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.checks.target import open_target
from manifest.determinism.doctor import Observation, Trial, modes, ran
from manifest.errors import ArchitectureError
from manifest.families import creation_of, family, family_of
from manifest.families.protocol import Creation, Family
from manifest.families.wrappers import unwrap
from manifest.fingerprints import environment
from manifest.golden.floor import Built
from manifest.golden.run import Outputs
from manifest.golden.subprocess_run import outputs_of_checkpoint, outputs_of_creation
from manifest.grants import granted
from manifest.neutral_process import neutral_process
from manifest.probes.shapes import SHAPES
from manifest.schema.name_ranges import listed
from manifest.schema.report import CANNOT_TELL, Finding, Kind, Report
from manifest.schema.rules import finding

_OF_ONES_OWN = "Save a network of your own with `example_inputs={'x': inputs}`, and give the doctor its checkpoint."
_SEED = 0
_HASHING = {"PYTHONHASHSEED": "12345"}
_WANTED: Mapping[str, Any] = {
    "cudnn.deterministic": True,
    "cudnn.benchmark": False,
    "deterministic_algorithms": True,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
}
"""Switches, and what they are set to for the same results."""


@dataclass(frozen=True)
class _Patient:
    """A model to look at, how to ask it in another process, and by which recorded probe where its family has none."""

    name: str
    built: Built
    elsewhere: Callable[[], Outputs] | None = None
    probe: str | None = None


def doctor(
    subject: nn.Module | str | os.PathLike[str],
    *,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    train: bool = False,
    allow: Sequence[str] = (),
) -> Report:
    """Find what makes a model give other answers to the same question, by looking and by trying.

    Args:
        subject: A model; a checkpoint with its manifest; or, with `family`, the name of a model to make.
        family: The model library that makes it.
        arguments: What its builder is called with.
        train: Look at it in train mode, as a training script has it; a model is otherwise taken as it is.
        allow: Modules of your own that may be imported to build it.

    Returns:
        A rung for each look and each experiment; findings name what causes a difference, its size, and its cure.

    Raises:
        ManifestError: The model cannot be made, or is of no known family.

    Example:
        >>> report = manifest.doctor(manifest.load("ckpt.pt"))
        >>> report.passed
        True
        >>> [rung.name for rung in report.rungs][:5]
        ['modes', 'operators', 'switches', 'repeat', 'eval mode']
    """
    with granted([*allow, *([str(subject).partition(":")[0]] if family == "callable" else [])]):
        if isinstance(subject, nn.Module):
            return _examined(_of_object(subject), train)
        if family is not None:
            return _examined(_of_name(str(subject), family, dict(arguments or {})), train)
        opened = open_target(subject)
        try:
            original = recorded_model(opened)
            threads = torch.get_num_threads()
            path, view = original.checkpoint.path, original.checkpoint.view
            elsewhere = partial(outputs_of_checkpoint, path, view, original.architecture, threads, _HASHING)
            probe = next((each.probe for each in opened.manifest.golden if each.probe.startswith(SHAPES)), None)
            asked = elsewhere if probe is None else None  # another process asks what the family has
            return _examined(_Patient(opened.path.name, original.built, asked, probe), train)
        finally:
            opened.close()


def _of_object(module: nn.Module) -> _Patient:
    module = unwrap(module)
    try:
        adapter = family_of(module)
    except ArchitectureError as error:
        raise ArchitectureError(f"{error} {_OF_ONES_OWN}") from error
    architecture = adapter.capture(module, creation_of(module)).architecture
    return _Patient(architecture.name or architecture.class_name, Built(adapter, architecture, module))


def _of_name(name: str, library: str, arguments: dict[str, Any]) -> _Patient:
    adapter: Family = family(library)
    creation = Creation(name, arguments, family=adapter.name)
    architecture = adapter.describe(creation).architecture
    with torch.random.fork_rng(devices=[]), neutral_process(arithmetic=False, generators=False):
        torch.manual_seed(_SEED)
        module = adapter.create(creation)
    elsewhere = partial(outputs_of_creation, creation, _SEED, torch.get_num_threads(), _HASHING)
    return _Patient(name, Built(adapter, architecture, module), elsewhere)


def _examined(patient: _Patient, train: bool) -> Report:
    module = patient.built.module
    before = {child: child.training for child in module.modules()}
    try:
        if train:
            module.train()
        return run_ladder(Kind.DOCTOR, patient.name, chain(_looks(patient), _experiments(patient)))
    finally:
        for child, mode in before.items():
            child.training = mode


def _looks(patient: _Patient) -> list[tuple[str, Callable[[], CheckResult]]]:
    built = patient.built
    return [
        ("modes", lambda: _modes(built.module)),
        ("operators", lambda: _operators(built)),
        ("switches", _switches),
    ]


def _modes(module: nn.Module) -> CheckResult:
    found = modes(module)
    words = f"{found.training} of {found.modules} modules in train mode"
    if found.inert:
        words += f", {_counted(found.inert)} of them with probability 0, which change nothing"
    if not found.acting:
        return CheckResult(words)
    kinds = _counted({kind: len(paths) for kind, paths in found.acting.items()})
    where = listed([path for paths in found.acting.values() for path in paths])
    message = f"{kinds} in train mode compute something else than in eval mode: {where}."
    return CheckResult(words, [finding("D001", message, where="modes", modules=dict(found.acting))])


def _operators(built: Built) -> CheckResult:
    try:
        found = ran(built.module, built.family.forward)
    except (NotImplementedError, RuntimeError, ValueError):
        return CheckResult("it cannot be traced without values", skipped=True)
    findings: list[Finding] = []
    if found.random:
        what = "; ".join(f"{name} in {listed(paths)}" for name, paths in found.random.items())
        findings.append(finding("D002", f"The forward pass draws random numbers: {what}.", where="operators"))
    asked = torch.are_deterministic_algorithms_enabled()
    documented = {name: each for name, each in found.documented.items() if not (asked and each[1])}
    if documented:
        what = "; ".join(f"{name} {when}" for name, (when, _) in list(documented.items())[:6])
        never = [name for name, (_, curable) in documented.items() if not curable]
        message = f"Documented not to be deterministic: {what}."
        if never:
            message += f" There is no deterministic form of {', '.join(never)}."
        findings.append(finding("D003", message, where="operators", never=never))
    words = f"{found.count:,} operators, {'random: ' + ', '.join(found.random) if found.random else 'none random'}"
    innocent = [
        f"{kind} ({', '.join(name.split('.')[1] for name in names)})"
        for kind, names in found.activations.items()
        if not set(names) & (found.random.keys() | found.documented.keys())
    ]
    if innocent:
        words += f"; not the cause: {', '.join(innocent)}"
    return CheckResult(words, findings)


def _switches() -> CheckResult:
    flags = environment.flags(torch)
    unset = [f"{name} is {flags[name]}" for name, wanted in _WANTED.items() if flags[name] != wanted]
    if not unset:
        return CheckResult("all set for the same results")
    message = f"Not set for the same results: {', '.join(unset)}."
    return CheckResult(f"{len(unset)} of {len(_WANTED)} not set", [finding("D004", message, where="switches")])


def _experiments(patient: _Patient) -> Iterator[tuple[str, Callable[[], CheckResult]]]:
    with neutral_process(arithmetic=False):
        inputs = patient.built.family.inputs(patient.built.architecture, patient.probe)
    if inputs is None:
        message = "Nobody here knows what this model takes, so it was asked nothing: whether it moves is not known."
        untold = finding(CANNOT_TELL, message, where="experiments", remedy=_OF_ONES_OWN)
        yield "experiments", lambda: CheckResult("not asked anything", [untold])
        return
    for cause, experiment in Trial(patient.built, inputs, patient.elsewhere).experiments():
        yield cause, partial(_shown, cause, experiment)


def _shown(cause: str, experiment: Callable[[], Observation]) -> CheckResult:
    effect = experiment()
    if effect.size is None:
        return CheckResult(f"not tried: {effect.words}", skipped=True)
    if effect.size == 0:
        return CheckResult(f"{effect.words}: the same bit for bit")
    words = f"{effect.words}: moves by {effect.size:.1e}"
    if not effect.moves:
        return CheckResult(f"{words}, which is arithmetic")
    message = f"Outputs move by {effect.size:.1e}: {effect.words}."
    found = finding("D005", message, where=cause, size=effect.size, remedy=effect.cure or None)
    return CheckResult(f"{words}; cured by {effect.cure}" if effect.cure else words, [found])


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items()))

"""The rungs that need torch: is the same model rebuilt, in what surroundings, and does it still say the same thing?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from manifest.checkpoint import Checkpoint
from manifest.checks.components import absent_by_design
from manifest.checks.environment import _BUILDING_LIBRARIES, _INPUT_LIBRARIES, environment_rung
from manifest.checks.explanation import RecordedModel, golden_mismatch_finding, inputs_apart, measures
from manifest.checks.ladder import CheckResult
from manifest.checks.misdescribed import misdescriptions
from manifest.checks.origin import inner_contradictions, origin_findings
from manifest.checks.records import contrast_here, record_findings, unreached_findings
from manifest.checks.target import Check, VerificationTarget
from manifest.errors import (
    ArchitectureError,
    InputError,
    LibraryMissingError,
    NotGrantedError,
    NotRebuildableError,
    SourceChangedError,
    one_line,
)
from manifest.families import family
from manifest.families.callable.adapter import source_change
from manifest.families.protocol import Family
from manifest.fingerprints import environment
from manifest.fingerprints.module_tree import changes, grouped, structure_digest, unfold
from manifest.fingerprints.structure import structure
from manifest.golden.compare import Comparison, Grade, agree, agreement, compare, worst_of
from manifest.golden.floor import measure
from manifest.golden.plausible import implausibilities
from manifest.golden.precision import build, in_precision, is_of_precision
from manifest.golden.run import finite
from manifest.golden.thoroughness import Thoroughness
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Inputs, Probe, inputs_digest, is_of_user
from manifest.schema.document import Architecture, Golden, Manifest
from manifest.schema.report import CANNOT_TELL, LIBRARY_MISSING, Finding, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import activation_words
from manifest.weights.assign import assign, misfits

_PROBE_OF_ONES_OWN = (
    "Nobody but you knows what a network of your own takes: save it with `example_inputs={'x': inputs}`, by the names "
    "of the arguments of its `forward`."
)

_DIFF_LINES = 40
"""Of a script that has changed, in a report."""


class Rebuilder:
    """Rebuilds one subject's model once, for every rung and for `load`.

    Args:
        probes: Probes of the user's own, for records of answers to them.
        brief: Compare golden outputs for the first sample of each kind alone, and for all of them only when it differs.
    """

    def __init__(self, *, brief: bool = False, probes: Sequence[Probe] = ()) -> None:
        self.brief = brief
        self.probes = probes
        self.module: nn.Module | None = None
        self.weighted = False
        self.cannot_build = False

    def rungs(self) -> list[tuple[str, Check]]:
        return [("architecture", self.architecture), ("environment", environment_rung), ("golden", self.golden)]

    @neutral_process()
    def model(self, subject: VerificationTarget) -> nn.Module:
        """The exact model with its weights, in eval mode.

        Raises:
            CheckpointError: The file cannot be read.
            ArchitectureError: The architecture cannot be built, or the weights do not fit it.
        """
        stored = _stored(subject)
        module = self._built(subject)
        if not self.weighted:
            roles = _family(subject).roles(subject.manifest.architecture, module.state_dict())
            assign(module, stored, absent=absent_by_design(subject.manifest.components, roles))
            self.weighted = True
        return module.eval()

    @neutral_process()
    def architecture(self, subject: VerificationTarget) -> CheckResult:
        """Does rebuilding give the recorded activations, structure, names, shapes and operators?"""
        recorded = subject.manifest.architecture
        try:
            module = self._built(subject)
        except LibraryMissingError as error:
            self.cannot_build = True
            return CheckResult("its library is missing", [finding(LIBRARY_MISSING, str(error), where="architecture")])
        except NotGrantedError as error:
            self.cannot_build = True
            remedy = "Read that module first, for whoever wrote the manifest chose it; then allow it as said above."
            return CheckResult(
                "not built without leave", [finding("A005", str(error), where="architecture", remedy=remedy)]
            )
        except NotRebuildableError as error:
            self.cannot_build = True
            return CheckResult("not on record how to build it", [finding("A016", str(error), where="architecture")])
        except SourceChangedError as error:
            self.cannot_build = True
            return CheckResult("its script has changed", [_source_changed(error.sentence, error.script, error.change)])
        except ArchitectureError as error:
            self.cannot_build = True
            return CheckResult("cannot be built", [finding("A005", str(error), where="architecture")])
        findings = _activation_findings(recorded, _family(subject), module)
        if not findings:
            findings += structure_findings(recorded, module, _moved(subject))
        if isinstance(subject.stored, Checkpoint):
            findings += _fit_findings(subject, module)
        if not findings:
            findings += misdescriptions(subject, _family(subject), module, _moved(subject))
        if not findings:
            findings += _operator_findings(recorded, _family(subject), module, _moved(subject))
        extras = subject.manifest.checkpoint.extras
        doubts = [] if findings else origin_findings(recorded, subject.manifest.provenance, extras)
        doubts += inner_contradictions(subject.manifest, subject.manifest.provenance.categories)
        if (change := source_change(recorded)) is not None:
            message = "What the model needs of its script has changed since it was saved, and that was allowed."
            doubts.append(_source_changed(message, str(recorded.name).partition(":")[0], change, allowed=True))
        name = recorded.name or recorded.class_name
        words = activation_words(recorded.activations) or "as recorded"
        reason = f"{recorded.family} {name} rebuilt: {words}"
        return CheckResult("not rebuilt as recorded" if findings else reason, findings + doubts)

    @neutral_process()
    def golden(self, subject: VerificationTarget) -> CheckResult:
        """Does the rebuilt model say the same thing?"""
        records = subject.manifest.golden
        if not records:
            own = subject.manifest.architecture.family in ("callable", "opaque")
            remedy = _PROBE_OF_ONES_OWN if own else None
            absent = finding("G003", "The manifest records no golden outputs.", remedy=remedy)
            return CheckResult("none recorded", [absent], skipped=True)
        if not isinstance(subject.stored, Checkpoint):
            return CheckResult("the container cannot be read", skipped=True)
        if self.cannot_build:
            return CheckResult("not run: the model cannot be built", skipped=True)
        if not subject.intact:
            return CheckResult("not run on weights that are not those that were saved", skipped=True)
        try:
            at_hand = self._at_hand(records)
            asked = at_hand[:1] if self.brief else at_hand
            if any(True for record in asked for _ in implausibilities(record)):
                return CheckResult("not run: the record is none that a save writes", skipped=True)
            result = [self._compare(subject, subject.stored, record) for record in asked]
        except (ArchitectureError, InputError) as error:
            return CheckResult("the model cannot be run", [finding("G001", str(error), where="golden")])
        findings = [found for each in result for found in each.findings]
        findings += [_not_asked(record) for record in records if record not in at_hand]
        worst = next((each for each in result if each.findings), result[0] if result else None)
        return CheckResult(worst.reason if worst else "no probe at hand", findings, skipped=worst is None)

    def _at_hand(self, records: Sequence[Golden]) -> list[Golden]:
        """The records whose probes are: those that ship with this package, and those that were given."""
        names = {material.called("") for material in self.probes}
        return [record for record in records if not is_of_user(record.probe) or record.probe in names]

    def _built(self, subject: VerificationTarget) -> nn.Module:
        if self.module is None:
            self.module = build(_family(subject), subject.manifest.architecture)
        return self.module

    def _compare(self, subject: VerificationTarget, stored: Checkpoint, golden: Golden) -> CheckResult:
        adapter, architecture = _family(subject), subject.manifest.architecture
        material = next((each for each in self.probes if each.called("") == golden.probe), None)
        inputs = _inputs(adapter, architecture, golden.probe, material)
        if inputs is None or inputs.probe != golden.probe:
            message = f"The probe {golden.probe} cannot be made here, for want of the recorded tokenizer."
            remedy = "Install the extra `transformers` and fetch the tokenizer once, then verify again."
            return CheckResult("the probe cannot be made here", [finding("G002", message, remedy=remedy)])
        original = RecordedModel(adapter, architecture, stored)
        if architecture.precision in adapter.float32:
            original = RecordedModel(adapter, architecture, stored, self.model(subject))
        module = original.built.module
        if golden.precision != "fp32" or not is_of_precision(module, golden.precision):
            module = in_precision(original.built, golden.precision).module
            original = RecordedModel(adapter, architecture, stored, module)
        threads = max(1, min(golden.threads, torch.get_num_threads()))
        same_inputs = inputs_digest(inputs) == golden.inputs
        if self.brief and golden.brief and same_inputs:
            answers = original.built.ask(inputs.first(), threads=threads)
            comparisons = compare(golden, answers.record(), brief=True)
            if agree(comparisons):
                return CheckResult(f"{agreement(comparisons)}, for the first sample of each kind")
        answers = original.built.ask(inputs, threads=threads)
        if not finite(answers.outputs):
            return CheckResult("not finite", [finding("G004", "The model answers its probe with NaN or infinity.")])
        comparisons, widened = compare(golden, answers.record(), answers.readings), ""
        if not agree(comparisons) and _computes_otherwise(subject.manifest):
            here = measure(original.built, answers, original.built.ask(inputs.first()), Thoroughness.QUICK)
            contrast = contrast_here(original, golden, inputs)
            comparisons = compare(golden, answers.record(), answers.readings, here=here, contrast=contrast)
            widened = ", by the floor of this machine, which computes otherwise than where it was saved"
        worst = worst_of(comparisons)
        if not same_inputs:
            return _other_inputs(subject.manifest, worst, golden, inputs)
        if worst.grade is Grade.UNCERTAIN:
            return CheckResult("this machine cannot tell", [_uncertain(golden, worst)])
        if worst.grade is Grade.DIFFERENT:
            return CheckResult("different", [golden_mismatch_finding(original, golden, answers, worst, material)])
        if self.brief:
            return CheckResult(agreement(comparisons) + widened, [])
        if findings := record_findings(original, golden, answers, comparisons):
            return CheckResult("not as a save records it", findings)
        unreached = unreached_findings(original.built, golden, answers.record())
        return CheckResult(agreement(comparisons) + widened, unreached)


def _source_changed(message: str, script: str, change: str, *, allowed: bool = False) -> Finding:
    diff = change.splitlines()[:_DIFF_LINES]
    if not allowed:
        return finding("A015", message, where=script, diff=diff)
    remedy = "Nothing to do while its answers agree; to put the script on record as it is now, save the model anew."
    return finding("A015", message, where=script, severity=Severity.WARNING, remedy=remedy, diff=diff)


def rungs(probes: Sequence[Probe] = ()) -> list[tuple[str, Check]]:
    """The rungs above completeness, for one subject."""
    return Rebuilder(probes=probes).rungs()


def _family(subject: VerificationTarget) -> Family:
    return family(subject.manifest.architecture.family)


def _stored(subject: VerificationTarget) -> Checkpoint:
    if not isinstance(subject.stored, Checkpoint):
        raise subject.stored
    return subject.stored


def _activation_findings(recorded: Architecture, adapter: Family, module: nn.Module) -> list[Finding]:
    found = adapter.activations(module)
    if found == recorded.activations:
        return []
    message = (
        f"The config builds {activation_words(found)}, and the weights were saved with "
        f"{activation_words(recorded.activations)}."
    )
    remedy = (
        "Put back the config that was saved, or write the manifest anew for the model that was trained: "
        "`manifest create CKPT --family LIBRARY --model NAME`."
    )
    return [finding("A001", message, where="architecture.config", remedy=remedy)]


def structure_findings(
    recorded: Architecture, module: nn.Module, moved: Sequence[str] = (), *, remedy: str | None = None
) -> list[Finding]:
    """What differs between the modules of a recorded architecture and those of a module."""
    found = structure(module)
    if structure_digest(found) == recorded.structure:
        return []
    name = recorded.name or recorded.class_name
    different = changes(unfold(recorded.modules), found) if recorded.modules else []
    where = f": {grouped(different)}" if different else ", the same modules in another order" * bool(recorded.modules)
    if moved and different and all(change.is_of_vocabulary for change in different):
        message = f"The classes of {name} have other hyper-parameters in these libraries{where}."
        return [finding("E003", message, where="architecture.structure", libraries=list(moved))]
    message = f"The {name} here has another structure than was recorded{where}."
    place = different[0].path if different else "architecture.structure"
    return [finding("A002", message, where=place, remedy=remedy)]


def _moved(subject: VerificationTarget) -> list[str]:
    """Libraries that build and run models, of other versions here than at save time."""
    differences = environment.library_differences(subject.manifest.environment.libraries)
    return [name for name in differences if name in _BUILDING_LIBRARIES]


def _fit_findings(subject: VerificationTarget, module: nn.Module) -> list[Finding]:
    adapter, stored = _family(subject), _stored(subject)
    roles = adapter.roles(subject.manifest.architecture, module.state_dict())
    by_design = absent_by_design(subject.manifest.components, roles)
    problems = misfits(module, stored, roles=roles, absent=by_design)
    return [finding("A003", f"{problem[0].upper()}{problem[1:]}.", where="weights") for problem in problems]


def _operator_findings(
    recorded: Architecture, adapter: Family, module: nn.Module, moved: Sequence[str]
) -> list[Finding]:
    found = adapter.operators(module)
    if found is None:
        return []
    if recorded.operators is None:
        message = "The manifest does not say which operators the forward pass runs, which a save writes down."
        return [finding("A007", message, where="architecture.operators", severity=Severity.WARNING)]
    if found.digest == recorded.operators.digest:
        if found == recorded.operators:
            return []
        message = "The digest of the operators is the rebuilt model's, and their counts are not."
        return [finding("A007", message, where="architecture.operators")]
    then, now = recorded.operators.counts, found.counts
    changed = [
        f"{name} {then.get(name, 0)} → {now.get(name, 0)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name, 0) != now.get(name, 0)
    ]
    what = ", ".join(changed[:4]) or "the same ones in another order"
    if moved:
        message = f"The forward pass runs other operators with {', '.join(moved)} as installed here: {what}."
        return [finding("E003", message, where="architecture.operators", changed=changed)]
    return [finding("A004", f"The forward pass runs other operators than at save time: {what}.", changed=changed)]


def _not_asked(record: Golden) -> Finding:
    name = record.probe.partition("/")[2]
    return finding("G005", f"The manifest has answers to a probe of its owner's, {name!r}, which was not given.")


def _inputs(adapter: Family, architecture: Architecture, probe: str, material: Probe | None) -> Inputs | None:
    """The probe as recorded; what a file says of preprocessing and tokenizer may be anything."""
    try:
        return adapter.inputs(architecture, probe, material)
    except ArchitectureError:
        raise
    except Exception as error:
        raise ArchitectureError(
            f"The probe cannot be prepared as the manifest records it ({type(error).__name__}: {one_line(error)}); "
            "get the manifest from a source you trust."
        ) from error


def _other_inputs(manifest: Manifest, worst: Comparison, golden: Golden, inputs: Inputs) -> CheckResult:
    """Other inputs are an error, unless other libraries made them; then answers that agree are a warning."""
    message = "The probe's photographs or prompts come out of preprocessing and tokenizer otherwise than at save time"
    message += "".join(f", {kind} by {apart:.1e}" for kind, apart in inputs_apart(golden.prepared, inputs).items())
    moved = [
        name for name in environment.library_differences(manifest.environment.libraries) if name in _INPUT_LIBRARIES
    ]
    if not moved:
        message += ", although the libraries are the same, so the manifest describes another preprocessing."
        remedy = "Put back the manifest that was saved."
        found = finding("G002", message, severity=Severity.ERROR, remedy=remedy, distance=worst.distance)
        return CheckResult("inputs differ", [found])
    remedy = f"Install the recorded versions of {', '.join(moved)}, and verify again."
    found = finding("G002", f"{message}; {', '.join(moved)} differ.", remedy=remedy, distance=worst.distance)
    if agree([worst]):
        return CheckResult("inputs differ", [found])
    message = (
        f"The outputs differ by {worst.distance:.1e}, and so do the inputs; which of them is wrong cannot be told."
    )
    return CheckResult(
        "this machine cannot tell", [found, finding(CANNOT_TELL, message, where="golden", remedy=remedy)]
    )


def _uncertain(golden: Golden, worst: Comparison) -> Finding:
    message = (
        f"The {worst.output} differ from the record by {worst.distance:.1e}, and the arithmetic of this machine could "
        f"move them as far; up to {worst.tolerance:.1e} it would tell a wrong model from a right one."
    )
    return finding(CANNOT_TELL, message, where="golden", **measures(golden, worst))


def _computes_otherwise(manifest: Manifest) -> bool:
    """Whether numbers are added up here as they were not where the checkpoint was saved, or nobody measured how."""
    recorded, hardware = manifest.environment, environment.hardware(torch)
    return (
        not all(golden.floor for golden in manifest.golden)
        or "torch" in environment.library_differences(recorded.libraries)
        or recorded.platform != environment.platform_name()
        or recorded.hardware.get("cpu_capability") != hardware["cpu_capability"]
    )

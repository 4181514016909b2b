"""Auditing weights that come without a manifest: safe to load, what they are, what is missing, what was never trained.

Everything is read off the file, statically: torch is not imported and nothing in the file runs. What weights cannot
tell, such as an activation, is said to be so; what is claimed of them elsewhere is held against them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from manifest import progress
from manifest.checkpoint import Checkpoint, open_address, open_checkpoint
from manifest.checks.ladder import CheckResult, run_ladder
from manifest.checks.safety import Safety, broken_findings, global_findings, safety_findings, safety_of
from manifest.digests import file_sha256
from manifest.errors import CheckpointError, InputError, NoWeightsError
from manifest.escaping import address_in, printable, public
from manifest.identification.adapters import adapter_finding
from manifest.identification.candidates import ArchitectureCandidate, Identification
from manifest.identification.claims import (
    Claim,
    claims,
    contradictions,
    may_be_published,
    not_held_to,
    of_published_file,
    parse_claim,
)
from manifest.identification.customisation import foreign
from manifest.identification.identify import identify, match_named
from manifest.identification.tied import tied_once, untied_as_said
from manifest.identification.untold import untold_findings
from manifest.initialisation.findings import anomaly_finding, exponentiated_scales, training_findings
from manifest.initialisation.values import expect_samples
from manifest.initialisation.verdict import anomalies_of, evidence
from manifest.progress import Follower, followed
from manifest.schema.name_ranges import shortened
from manifest.schema.report import ComponentVerdict, Finding, Kind, Report, Severity
from manifest.schema.rules import finding
from manifest.schema.vocabulary import Status, Training, role_words
from manifest.weights.shape_diff import Shape, ShapeDiff

if TYPE_CHECKING:
    from manifest.checks.policy import Policy

_NEAR = 0.5
"""Share of a file's tensors that an architecture must have for the file to be held to it without being told."""
_KIN = 0.9
"""Share of a file's names that an architecture of other sizes must have for its parts to be called the same."""
_FEWEST_EMPTY, _SHARE_EMPTY = 2, 0.2
"""Tensors of shape [0], and their share of all, from which on they are taken for weights that are not there."""
_TRY = "Hold it against the class itself: `manifest create CKPT --family transformers --model DIRECTORY_OF_CONFIG`."
_WEIGHTS = "weights"
"""The role of what no known architecture has."""


@followed
def audit(
    path: str | os.PathLike[str],
    *,
    claimed: str | None = None,
    only: Sequence[str] = (),
    state: str | None = None,
    policy: str | os.PathLike[str] | Policy | None = None,
    fast: bool = False,
    against: str | os.PathLike[str] | None = None,
    named: bool = True,
    progress: Follower = None,
) -> Report:
    """Say what a checkpoint is and whether to trust it, without loading it.

    Args:
        path: A file, or a directory of files; or the address of a file, which is audited as with `fast`.
        claimed: What it is said to be: `open_clip:ViT-B-16`, `timm:vit_base_patch16_224/augreg_in21k`.
        only: Roles of the components that it is meant to hold, as in `["vision_tower"]`; all of them when empty.
        state: Which weights of several, by their keys.
        policy: What is demanded of it: a YAML file.
        fast: Look at samples of large tensors only, so that a file of any size takes less than a second: a lone NaN may
            be passed over, equal tensors are not looked for, and neither checksums nor the hashes of published files
            are compared.
        against: Where its relatives are looked for: a folder of manifests, or an index that `add_to_index` made.
        named: Whether somebody named it. One that was found in a folder, and is no weights, as the state of an
            optimizer, is only asked what its pickle would run.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        A report whose `safety` is one of three: `safe`, `unsafe`, or `unreadable`; with a rung each for the format,
        for what it is, for its components, for its numbers, and for its kinship where that is asked.

    Raises:
        InputError: There is no such file, or what is claimed of it or demanded makes no sense.

    Example:
        >>> report = manifest.audit("weights.safetensors")
        >>> [f"{rung.name}: {rung.outcome}" for rung in report.rungs]
        ['format: pass', 'identity: pass', 'completeness: skip', 'numbers: pass']
    """
    del progress  # `followed` takes it
    address = address_in(path)
    path = Path(path if address is None else public(address))
    demanded = None if policy is None else _demanded(policy)
    claim = None if claimed is None else parse_claim(claimed)
    try:
        with open_checkpoint(path) if address is None else open_address(address) as stored:
            meant = stored if state is None else stored.select(state)
            report = _Audit(meant, claim, frozenset(only), fast or stored.mirror is not None, against).report()
    except CheckpointError as error:
        if isinstance(error, NoWeightsError) and not named:
            result = _without_weights(error)
            safety = Safety.UNSAFE if result.findings else Safety.SAFE
        else:
            result, safety = _unreadable(error, path), Safety.UNREADABLE
        report = run_ladder(Kind.AUDIT, path.name, [("format", lambda: result)])
        report.safety = safety
    report.path = str(path) if address is None else public(address)
    return report if demanded is None else demanded(report, path)


def _unreadable(error: CheckpointError, path: Path) -> CheckResult:
    refusal = finding(error.rule, str(error), where=printable(path.name), remedy=error.remedy)
    return CheckResult("cannot be read, so nothing is known of it", [refusal])


def _without_weights(error: NoWeightsError) -> CheckResult:
    """A file beside weights: what is unknown in it is a warning, since nobody takes it for weights."""
    findings = global_findings(error.globals, unknown=Severity.WARNING)
    return CheckResult("holds no weights, and is passed over", findings, skipped=not findings)


def _demanded(policy: str | os.PathLike[str] | Policy) -> Callable[[Report, Path], Report]:
    """What holds a report to a policy; most audits are held to none, and need not know what one is."""
    from manifest.checks.policy import Policy, read_policy
    from manifest.checks.policy_check import apply_policy

    read = policy if isinstance(policy, Policy) else read_policy(policy)
    return lambda report, path: apply_policy(report, read, path)


class _Audit:
    """One checkpoint while it is audited; what several rungs need is found out once."""

    def __init__(
        self,
        stored: Checkpoint,
        claim: Claim | None,
        only: frozenset[str],
        fast: bool,
        against: str | os.PathLike[str] | None,
    ) -> None:
        self.stored = stored
        self.claim = claim
        self.only = only
        self.fast = fast
        self.against = None if against is None else Path(against)
        self.components: list[ComponentVerdict] = []
        self._sha256: Future[str] | None = None

    def report(self) -> Report:
        rungs: list[tuple[str, Callable[[], CheckResult]]] = [
            ("format", self._format),
            ("identity", self._identity),
            ("completeness", self._completeness),
            ("numbers", self._numbers),
            *([] if self.against is None else [("kinship", partial(self._kinship, self.against))]),
        ]
        with ThreadPoolExecutor(1) as background:
            if not self.fast and may_be_published(self.stored, self.identification):
                self._sha256 = background.submit(file_sha256, self.stored.path)
            report = run_ladder(Kind.AUDIT, self.stored.path.name, rungs)
        report.safety = safety_of(self.stored)
        report.container = self.stored.container
        report.components = self.components
        return report

    @cached_property
    def identification(self) -> Identification:
        """What its names and shapes are those of."""
        return identify(self.stored.shapes, [str(key) for key in self.stored.extras], self.stored.prefix)

    @cached_property
    def claims(self) -> list[Claim]:
        """All that is said of it."""
        declared_one = [self.claim] if self.claim else []
        known = [] if self._sha256 is None else of_published_file(self.stored.path, self._sha256.result())
        return [*declared_one, *claims(self.stored), *known]

    @cached_property
    def meant(self) -> ArchitectureCandidate | None:
        """The architecture that it is held to: the one that it is declared to be, else what it is or comes near to."""
        if self.claim is not None:
            found = match_named(self.claim.library, self.claim.name or "", self.stored.shapes, self.stored.prefix)
            if found is None:
                name = printable(self.claim.name or "", 100)
                raise InputError(f"--as names {name}, which no library here has; name another, or leave it out.")
            return found
        group = self.identification.candidates
        near = bool(group) and not group[0].formed_otherwise and _fitting(group[0]) >= _NEAR * len(self.stored.shapes)
        if not group or not (group[0].exact or near):
            return None
        told = self._told_by()
        return group[0] if told is None else told[0]

    def _told_by(self) -> tuple[ArchitectureCandidate, Claim] | None:
        """Which of the architectures that fit exactly is meant, and who says so, by its name or its activation."""
        exact = [each for each in self.identification.candidates if each.exact]
        for claim in self.claims:
            for each in exact:
                if each.name == claim.name:
                    return each, claim
        for claim in self.claims:
            alike = [each for each in exact if bool(each.settings.get("quick_gelu")) == claim.quick_gelu]
            if claim.quick_gelu is not None and len(alike) == 1 and len(exact) > 1:
                return alike[0], claim
        return None

    def _alike(self, meant: ArchitectureCandidate) -> list[ArchitectureCandidate]:
        """The architecture that a file is held to, and those that nobody says it is not."""
        told = self.claim is not None or self._told_by() is not None
        return [meant, *(each for each in self.identification.candidates if each.exact and not told)]

    def _kin(self) -> ArchitectureCandidate | None:
        """An architecture that names its tensors so, whatever their shapes: it says which belong together."""
        nearest = next(iter(self.identification.candidates), None)
        return nearest if nearest is not None and len(nearest.stored) >= _KIN * len(self.stored.shapes) else None

    def _format(self) -> CheckResult:
        findings = [*broken_findings(self.stored, checksums=not self.fast), *safety_findings(self.stored)]
        words = f"well-formed {self.stored.container}, read without running any of it: {_weights(self.stored)}"
        return CheckResult(words + ("; checksums not compared" if self.fast else ""), findings)

    def _identity(self) -> CheckResult:
        found, meant = self.identification, self.meant
        tagged = meant is not None and any(claim.tag and claim.name == meant.name for claim in self.claims)
        findings = untold_findings(found, told=self._told_by() is not None, tagged=tagged)
        findings += contradictions(self.claims, found, meant, self.stored.path)
        removed = self.stored.prefix.removesuffix(found.put_back)
        prefix = [f'prefix "{removed}" removed'] if removed else []
        about = [*prefix, *found.renaming, *([f"written by {found.written_by}"] if found.written_by else [])]
        renamed = f" ({printable('; '.join(about), 160)})" if about else ""
        if found.adapters is not None:
            findings.append(adapter_finding(found.adapters, self.stored.path))
            if found.adapters.alone:
                return CheckResult("adapters alone, of a model that is not in the file", findings)
        said_of = not_held_to(self.claims, found, meant)
        if meant is None:
            nearest = f"; nearest is {_named(found.candidates[0])}" if found.candidates else ""
            words = f"no architecture of open_clip, timm, torchvision or transformers{nearest}{renamed}{said_of}"
            state = self._state_of_part()
            remedy = f"Choose the model that is meant: `--state {state}`." if state else _TRY if said_of else None
            unknown = finding("A010", f"By names and shapes it is {words}.", where="identity", remedy=remedy)
            return CheckResult(words, [*findings, unknown])
        if not meant.exact:
            return CheckResult(f"near to {_named(meant)}{renamed}{said_of}", [*findings, *_misfits(meant)])
        twins = [each.name for each in found.candidates if each.library == meant.library]
        others = f" or {', '.join(name for name in twins if name != meant.name)}" if len(twins) > 1 else ""
        told = self._told_by()
        said = told[1] if told is not None and told[0].name == meant.name else None
        word = f", as {printable(said.source)} says" if said else ""
        built = f" with {meant.otherwise}" if meant.otherwise else ""
        return CheckResult(
            f"{meant.library} {meant.name}{'' if said else others}{built}{word}{renamed}{said_of}", findings
        )

    def _state_of_part(self) -> str | None:
        """What chooses the weights of one model, where others are beside them in one state dict."""
        for near in self.identification.candidates[:1]:
            if len(near.stored) == len(near.roles):
                name, stored = next(iter(near.stored.items()))
                place = stored.removesuffix(name).removesuffix(".")
                return printable(".".join((*self.stored.state_path, place))) if place else None
        return None

    def _completeness(self) -> CheckResult:
        meant = self.meant
        if meant is None:
            empty = _empty(self.stored.shapes)
            words = "what it should hold is not known; say it with --as LIBRARY:NAME"
            return CheckResult(words, empty, skipped=not empty)
        meant = untied_as_said(meant, self.claims)
        roles = list(dict.fromkeys(meant.roles.values()))
        if unknown := self.only - set(roles):
            raise InputError(f"--only is {', '.join(sorted(unknown))}, expected among {', '.join(roles)}; correct it.")
        self.components = [
            _component(role, meant, by_design=bool(self.only) and role not in self.only) for role in roles
        ]
        findings = [found for part in self.components for found in _missing(part, meant, self.stored.path.name)]
        findings += [*tied_once(self._alike(meant), self.claims), *_empty(self.stored.shapes)]
        whole = sum(part.status is Status.COMPLETE for part in self.components)
        designed = [role_words(part.role) for part in self.components if part.by_design]
        words = f"{whole} of {len(roles)} components complete"
        return CheckResult(words + (f"; by design without {', '.join(designed)}" if designed else ""), findings)

    def _numbers(self) -> CheckResult:
        if self.fast:
            expect_samples(self.stored)
        meant, roles = self.meant or self._kin(), {}
        if meant is None or not meant.exact:
            roles = dict.fromkeys(self.stored.tensors, _WEIGHTS)
        if meant is not None:
            roles |= {meant.stored[name]: role for name, role in meant.roles.items() if name in meant.stored}
        progress.expect(0 if self.fast else sum(tensor.nbytes for tensor in self.stored.tensors.values()))
        with ThreadPoolExecutor(1) as pool:  # one waits for the bytes, the other computes
            odd = pool.submit(anomalies_of, self.stored, sampled=self.fast)
            verdicts = evidence(roles, self.stored)
        self.components = [
            part.model_copy(update={"training": verdicts[part.role].training}) if part.role in verdicts else part
            for part in self.components
        ]
        by_design = {part.role for part in self.components if part.by_design}
        findings = training_findings({role: each for role, each in verdicts.items() if role not in by_design})
        findings += exponentiated_scales(self.stored, roles)
        findings += [anomaly_finding(each, roles) for each in odd.result()]
        counts = Counter(verdict.training.words for verdict in verdicts.values())
        words = ", ".join(f"{count} {training}" for training, count in counts.items()) or "no numbers"
        words += "; large tensors by samples" if self.fast else ""
        return CheckResult(words + (self.stored.mirror.account() if self.stored.mirror else ""), findings)

    def _kinship(self, against: Path) -> CheckResult:
        from manifest.kinship.nearest import nearest
        from manifest.kinship.subjects import of_checkpoint

        if self.fast:
            return CheckResult("all of the weights would have to be read, and samples were", skipped=True)
        found = nearest(of_checkpoint(self.stored), against)
        return CheckResult(found.in_short, skipped=not found.searched)


def _fitting(near: ArchitectureCandidate) -> int:
    """How many tensors of a file are an architecture's, by name and shape."""
    return len(near.stored) - len(near.fit.reshaped)


def _named(near: ArchitectureCandidate) -> str:
    return f"{near.library} {near.name}, of whose {len(near.roles):,} tensors {_fitting(near):,} are there"


def _component(role: str, meant: ArchitectureCandidate, *, by_design: bool) -> ComponentVerdict:
    expected, missing = _members(role, meant)
    status = Status.COMPLETE if not missing else Status.ABSENT if missing == expected else Status.PARTIAL
    return ComponentVerdict(role=role, status=status, training=Training.UNKNOWN, by_design=by_design)


def _members(role: str, meant: ArchitectureCandidate) -> tuple[list[str], list[str]]:
    """The tensors of a component, and those of them that weights are not whole without and that are not there."""
    lacking = set(meant.fit.missing)
    expected = [name for name, of in meant.roles.items() if of == role]
    return expected, [name for name in expected if name in lacking]


def _missing(part: ComponentVerdict, meant: ArchitectureCandidate, subject: str) -> list[Finding]:
    if part.by_design or part.status is Status.COMPLETE:
        return []
    expected, missing = _members(part.role, meant)
    words = f"{role_words(part.role)} of {meant.library} {meant.name}"
    if part.status is Status.PARTIAL:
        there = len(expected) - len(missing)
        message = f"The {words} has {there} of {len(expected)} tensors; {shortened(missing)} missing."
        return [finding("C002", message, where=part.role, missing=missing[:50])]
    whole = [role for role in dict.fromkeys(meant.roles.values()) if not _members(role, meant)[1]]
    message = f"The {words} is not in {printable(subject)}: none of its {len(expected)} tensors."
    meanwhile = f"; if that is meant, say what it holds: `--only {','.join(whole)}`." if whole else "."
    return [finding("C001", message, where=part.role, remedy=f"Get the whole file{meanwhile}")]


def _empty(shapes: Mapping[str, Shape]) -> list[Finding]:
    """Weights that were saved without their values, which no model has many of."""
    names = [name for name, shape in shapes.items() if shape == (0,)]
    if len(names) < _FEWEST_EMPTY or len(names) < _SHARE_EMPTY * len(shapes):
        return []
    message = f"{len(names)} of {len(shapes)} tensors have no values: {printable(shortened(names), 300)}."
    return [finding("C012", message, where="weights", tensors=[printable(name) for name in names[:50]])]


def _misfits(meant: ArchitectureCandidate) -> list[Finding]:
    """Tensors that the architecture has not, or has in another shape; what is missing is told by component."""
    said = ShapeDiff((), meant.fit.unexpected, meant.fit.reshaped).sentences(meant.roles)
    if not said:
        return []
    message = f"Held against {meant.library} {meant.name}: {printable('; '.join(said), 900)}."
    known = foreign(meant.fit.unexpected)
    remedy = f"{known[0].upper()}{known[1:]}." if known else None
    return [finding("A013", message, where="identity", remedy=remedy)]


def _weights(stored: Checkpoint) -> str:
    place = f" under {printable('.'.join(stored.state_path))}" if stored.state_path else ""
    others = [".".join(candidate.path) or "the top" for candidate in stored.candidates]
    others.remove(".".join(stored.state_path) or "the top")
    also = f", also {printable(', '.join(others), 120)}" if others else ""
    return f"{len(stored.tensors):,} tensors{place}{also}"

"""Verifying: the ladder of checks, from who signed a checkpoint to whether it still says the same thing.

Every rung passes, warns, fails or is skipped with its reason, and a failed rung does not hide the others. The first
four need no torch; the rest are in `checks.rebuild`, which is imported only when they are climbed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from manifest.checkpoint import Checkpoint, open_address
from manifest.checks.completeness import _completeness
from manifest.checks.format import _format, _listing
from manifest.checks.integrity import integrity
from manifest.checks.ladder import CheckResult, merge_reports
from manifest.checks.target import Check, VerificationTarget, open_target, run_checks
from manifest.checks.trust import Expectation, check_trust, expectation
from manifest.escaping import address_in, printable
from manifest.grants import granted
from manifest.progress import Follower, followed
from manifest.schema.report import Report, Severity
from manifest.signing import Trusted
from manifest.signing.trusted import Signers
from manifest.storage.trust_files import Trust, trusted_signers

if TYPE_CHECKING:
    from manifest.checks.policy import Policy


@followed
def verify(
    path: str | os.PathLike[str] | Checkpoint,
    *,
    key: Trusted = None,
    fast: bool = False,
    allow: Sequence[str] = (),
    probes: Sequence[Any] = (),
    policy: str | os.PathLike[str] | Policy | None = None,
    trust: Trust = None,
    not_before: date | str | None = None,
    expect_weights: str | None = None,
    progress: Follower = None,
) -> Report:
    """Hold a checkpoint to its manifest.

    Args:
        path: The checkpoint, by its path or open already (then it is closed afterwards); its manifest and signature
            lie beside it. Or its address: `https://…`, `s3://…`, `gs://…`, `hf://…`.
        key: Public key of the signer that is trusted: a file, `file:…` or `env:VARIABLE`. Of several, any of whom may
            have signed, a file of all, or a sequence.
        fast: Stop before the rungs that need torch.
        allow: Modules of your own that may be imported to rebuild the model, `["mypkg"]` for `mypkg` and all inside it,
            and scripts, `["src/train.py"]`, of which only what the model needs is run.
        probes: Probes of your own that it was saved with: `manifest.Probe(…)`, or directories.
        policy: What a release demands beyond the manifest's promise: a YAML file.
        trust: A trust file, which says whose signatures count. Without it and without `key`, the one that
            `$MANIFEST_TRUST` names, the project's `.manifest/trust.yaml`, or the user's, where there is one.
        not_before: The first day, in UTC, on which the manifest may have been written, as in `2026-11-01`.
        expect_weights: The digest that the weights must have, as in `blake3:…`.
        progress: Who follows it: `True` for a bar of tqdm, or a function that is called with its steps, on a thread of
            its own: `lambda step: print(step.name, step.done, step.total)`, in bytes.

    Returns:
        Every rung with its outcome, reason, time in seconds and findings; `report.exit_code` is 0 when none failed.

    Raises:
        InputError: There is no such file.
        NoManifestError: It has no manifest.
        DocumentError: Its manifest is not valid.
        KeyFileError: The key cannot be used.
        InputError: The trust file cannot be read.

    Example:
        >>> report = manifest.verify("ckpt.pt", key="release.pub")
        >>> report.passed, report.exit_code
        (True, 0)
        >>> [rung.name for rung in report.rungs]
        ['trust', 'integrity', 'format', 'completeness', 'architecture', 'environment', 'golden']
    """
    del progress  # `followed` takes it
    demanded = None if policy is None else _demanded(policy)
    trusted, expected = trusted_signers(key, trust), expectation(not_before, expect_weights)
    subject = open_target(path if isinstance(path, Checkpoint) else _at_address(path, fast) or path)
    try:
        with granted(allow):
            rungs = static_rungs(trusted, expected, thorough=not fast) + (
                skipped_rungs() if fast else _dynamic_rungs(probes)
            )
            floors = [] if demanded is None else _floors(demanded)
            report = run_checks(subject, rungs + floors)
            models = {"": report}
            for other in subject.others():
                checks: list[tuple[str, Check]] = [("format", _listing), _completeness_rung(not fast)]
                checks += [] if fast else [rung for rung in _dynamic_rungs(probes) if rung[0] != "environment"]
                state = printable(".".join(other.manifest.checkpoint.state.path))
                models[state] = run_checks(other, checks + floors)
                report = merge_reports(report, models[state], state)
            return report if demanded is None else _held_to(demanded, report, subject, models)
    finally:
        subject.close()


def _at_address(path: str | os.PathLike[str], fast: bool) -> Checkpoint | None:
    """The checkpoint at an address; None for what is a path. All its bytes are kept where they are read repeatedly."""
    address = address_in(path)
    if address is None:
        return None
    stored = open_address(address)
    try:
        if not fast:
            stored.files.fetch()
    except BaseException:
        stored.close()
        raise
    return stored


def static_rungs(
    trusted: Signers | None,
    expected: Expectation | None = None,
    *,
    code: Severity = Severity.ERROR,
    thorough: bool = False,
) -> list[tuple[str, Check]]:
    """Trust, integrity, format and completeness: no torch.

    Args:
        trusted: Whose signatures count; None to say who signed.
        expected: Which checkpoint of several genuine ones is meant.
        code: How severe it is that `torch.load` would run code out of the file.
        thorough: Read the file again, for what the BLAKE3 of the whole does not show: its other digests, and, where a
            trusted signature says it, whether components were trained.
    """
    return [
        ("trust", lambda subject: check_trust(subject, trusted, expected)),
        ("integrity", integrity),
        ("format", lambda subject: _format(subject, code, thorough)),
        _completeness_rung(thorough),
    ]


def _completeness_rung(thorough: bool) -> tuple[str, Check]:
    return "completeness", lambda subject: _completeness(subject, thorough)


def skipped_rungs() -> list[tuple[str, Check]]:
    """The rungs above, when only a fast answer is wanted."""
    skipped = CheckResult("not asked for: --fast stops before torch", skipped=True)
    return [(name, lambda subject: skipped) for name in ("architecture", "environment", "golden")]  # noqa: ARG005


def _dynamic_rungs(probes: Sequence[Any]) -> list[tuple[str, Check]]:
    from manifest.checks.rebuild import rungs
    from manifest.probes.directory import as_probe

    return rungs([as_probe(probe) for probe in probes])


def _demanded(policy: str | os.PathLike[str] | Policy) -> Policy:
    from manifest.checks.policy import Policy, read_policy

    return policy if isinstance(policy, Policy) else read_policy(policy)


def _floors(policy: Policy) -> list[tuple[str, Check]]:
    """The floors that a manifest records, held to what a policy demands of them."""
    from manifest.checks.policy_check import RUNG, floor_findings

    return [(RUNG, lambda subject: CheckResult("", floor_findings(policy.golden, subject.manifest.golden)))]


def _held_to(policy: Policy, report: Report, subject: VerificationTarget, models: Mapping[str, Report]) -> Report:
    from manifest.checks.policy_check import apply_policy

    return apply_policy(report, policy, subject.path, models=models)

"""`manifest verify`: hold checkpoints to their manifests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import (
    Allow,
    Engine,
    EngineName,
    FailOn,
    FailOnOption,
    Format,
    FormatOption,
    JournalFile,
    NoCache,
    NoColor,
    Output,
    Places,
    PolicyFile,
    Probes,
    Quiet,
    TrustedKey,
    TrustFile,
    Workers,
)
from manifest.cli.printing import each_checked, finish
from manifest.errors import ManifestError

if TYPE_CHECKING:
    from manifest.checkpoint import Checkpoint as OpenCheckpoint
    from manifest.schema.report import Report


def run(
    places: Places,
    key: TrustedKey = None,
    fast: Annotated[bool, typer.Option("--fast", help="Stop before the checks that need torch.")] = False,
    allow: Allow = None,
    probe: Probes = None,
    policy: PolicyFile = None,
    trust: TrustFile = None,
    not_before: Annotated[
        str | None,
        typer.Option("--not-before", help="First day on which the manifest may have been written.", metavar="DAY"),
    ] = None,
    expect_weights: Annotated[
        str | None, typer.Option("--expect-weights", help="The digest that the weights must have.", metavar="DIGEST")
    ] = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    journal: JournalFile = None,
    engine: EngineName = Engine.LOCAL,
    workers: Workers = None,
    no_cache: NoCache = False,
    fail_on: FailOnOption = FailOn.ERROR,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Check who signed a checkpoint, that it is intact, whole and rebuilt exactly, and that it still says the same.

    Of a folder, all that have a manifest. Exit codes: 0 all checks passed; 1 something is wrong; 2 it could not be
    checked. Of several checkpoints, the worst.
    """
    from manifest.storage.sidecars import named_checkpoints

    checkpoints = named_checkpoints(places, described=True)
    alone = _opened(checkpoints[0]) if len(checkpoints) == 1 else None
    from manifest.schema.report import Kind
    from manifest.storage.trust_files import trusted_signers
    from manifest.workflows.verifying import verify

    demanded = None
    if policy is not None:
        from manifest.checks.policy import read_policy

        demanded = read_policy(policy)
    trusted, today = trusted_signers(key, trust), datetime.now(UTC).date()

    def check(path: Path) -> Report:
        return verify(
            alone or _opened(path),
            trust=trusted,
            fast=fast,
            allow=allow or (),
            probes=probe or (),
            policy=demanded,
            not_before=not_before,
            expect_weights=expect_weights,
        )

    # Whether a signer counts depends on the day.
    whom = trusted and (
        trusted.threshold,
        [(each.public.hint, each.title, each.terms(today)) for each in trusted.each],
        today,
    )
    asked = (whom, fast, allow, probe, demanded, not_before, expect_weights)
    reports = each_checked(
        checkpoints,
        check,
        Kind.VERIFY,
        format=format,
        output=output,
        in_processes=fast,
        journal=journal,
        asked=asked,
        engine=engine,
        workers=workers,
        cache=not no_cache,
    )
    found = reports[0] if len(checkpoints) == 1 else reports
    finish(found, format, output, quiet=quiet, color=not no_color, fail_on=fail_on)


def _opened(path: Path) -> OpenCheckpoint | Path:
    """The checkpoint, being hashed while the rest of the program is imported; `verify` says why it cannot be opened."""
    from manifest.checkpoint import open_checkpoint

    try:
        opened = open_checkpoint(path)
    except (ManifestError, OSError):  # also a name that is too long to be looked at
        return path
    opened.hash_ahead()
    return opened

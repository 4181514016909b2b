"""`manifest audit`: what checkpoints without a manifest are, and whether to trust them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import (
    Against,
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
    Quiet,
    State,
    Workers,
)
from manifest.cli.printing import each_checked, finish

if TYPE_CHECKING:
    from manifest.checks.policy import Policy
    from manifest.schema.report import Report

Claimed = Annotated[
    str | None,
    typer.Option("--as", help="What it is said to be: LIBRARY:NAME, or LIBRARY:NAME/TAG.", show_default=False),
]
Only = Annotated[
    str, typer.Option("--only", help="Components that it is meant to hold, as in vision_tower,vision_projection.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Look at samples of large tensors only, and compare no checksums.")]


def run(
    checkpoints: Places,
    claimed: Claimed = None,
    only: Only = "",
    state: State = None,
    policy: PolicyFile = None,
    fast: Fast = False,
    against: Against = None,
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
    """Say what checkpoints are, what is missing, what was never trained, and whether loading them would run code.

    They are read without torch, and nothing in them runs. Exit codes: 0 nothing is wrong; 1 something is; 2 it could
    not be checked. Of several, the worst.
    """
    from manifest.checkpoint.discovering import discover
    from manifest.cli.options import roles
    from manifest.schema.report import Kind
    from manifest.workflows.auditing import audit

    demanded = None if policy is None else _read(policy)
    paths, named = discover(checkpoints), set(map(Path, checkpoints))

    def check(path: Path) -> Report:
        return audit(
            path,
            claimed=claimed,
            only=roles(only),
            state=state,
            policy=demanded,
            fast=fast,
            against=against,
            named=path in named,
        )

    asked = (claimed, only, state, demanded, fast, against, journal and against and _state_of(against))
    reports = each_checked(
        paths,
        check,
        Kind.AUDIT,
        format=format,
        output=output,
        in_processes=True,
        journal=journal,
        asked=asked,
        engine=engine,
        workers=workers,
        cache=not no_cache,
    )
    found = reports[0] if len(paths) == 1 else reports
    finish(found, format, output, quiet=quiet, color=not no_color, fail_on=fail_on)


def _state_of(against: Path) -> tuple[int, int]:
    """What is searched, as far as it decides whether a report is still true: how many files, and the newest change."""
    from manifest.kinship.searching import manifests_under

    if not against.exists():
        return 0, 0  # which its audit says
    times = [path.stat().st_mtime_ns for path in (manifests_under(against) if against.is_dir() else [against])]
    return len(times), max(times, default=0)


def _read(policy: Path) -> Policy:
    from manifest.checks.policy import read_policy

    return read_policy(policy)

"""`manifest audit`: what a checkpoint without a manifest is, and whether loading it would run code."""

from __future__ import annotations

from manifest.cli.options import (
    Checkpoints,
    FailOn,
    FailOnOption,
    Format,
    FormatOption,
    NoColor,
    Output,
    PolicyFile,
    Quiet,
)
from manifest.cli.printing import each_checked, finish, finish_all


def run(
    checkpoints: Checkpoints,
    policy: PolicyFile = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    fail_on: FailOnOption = FailOn.ERROR,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Read checkpoints without torch and without running any of them, and say what loading them would do.

    Exit codes: 0 safe; 1 it would run code, or cannot be read as what it is; 2 it could not be checked. Of several,
    the worst.
    """
    from manifest.findings import Kind
    from manifest.policy import read_policy
    from manifest.workflows.auditing import audit

    demanded = None if policy is None else read_policy(policy)
    reports = each_checked(
        checkpoints, lambda path: audit(path, policy=demanded), Kind.AUDIT, format=format, output=output
    )
    if len(checkpoints) == 1:
        finish(reports[0], format, output, quiet=quiet, color=not no_color, fail_on=fail_on)
    finish_all(reports, format, output, quiet=quiet, color=not no_color, fail_on=fail_on)

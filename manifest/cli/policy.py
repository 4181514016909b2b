"""`manifest policy`: check a policy, or print one to begin with."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = Path(__file__).parents[1] / "policies"

run = typer.Typer(help="Check what a policy demands, or print one to begin with.", no_args_is_help=True)


class Example(StrEnum):
    RELEASE = "release"
    DOWNLOAD = "download"


@run.command()
def check(file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy.", show_default=False)]) -> None:
    """Say in one line what a policy demands; end with 2 and the reason if it is none."""
    from manifest.checks.policy import demands, read_policy

    print(f"{file.name} {demands(read_policy(file))}")


@run.command()
def example(which: Annotated[Example, typer.Argument(help="For what.")] = Example.RELEASE) -> None:
    """Print a policy with a comment on every line that needs one."""
    print((EXAMPLES / f"{which}.yaml").read_text(encoding="utf-8"), end="")

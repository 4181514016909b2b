"""`manifest run`: a command, unchanged, whose checkpoints get their manifests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import PASSPHRASE_VARIABLE, SigningKey, passphrase, roles

if TYPE_CHECKING:
    from manifest.training.account import Told

Command = Annotated[
    list[str],
    typer.Argument(
        metavar="-- COMMAND...", help="Any: `python train.py …`, `torchrun …`, `bash train.sh`, ….", show_default=False
    ),
]
Golden = Annotated[str, typer.Option("--golden", help="Which saves get golden outputs: every, last, or none.")]
Floor = Annotated[str, typer.Option("--floor", help="How much time the numerics floor takes: quick, full, or none.")]
Partial = Annotated[str, typer.Option("--partial", help="Components that are untrained by design.")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="A note on the data, for the record.")]
Strict = Annotated[bool, typer.Option("--strict", help="End the training when a manifest cannot be written.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say of every file that was saved what became of it, and log the work.")
]


def run(
    command: Command,
    key: SigningKey = None,
    golden: Golden = "every",
    floor: Floor = "quick",
    partial: Partial = "",
    dataset: Dataset = None,
    strict: Strict = False,
    verbose: Verbose = False,
) -> None:
    """Run a command, and follow each checkpoint that its Python processes save by its manifest.

    Exit codes: those of the command; 2 when it could not be started.
    """
    from manifest.training.command import end_as, run_command
    from manifest.training.settings import RecordSettings

    settings = RecordSettings(
        key=key,
        golden=golden,
        floor=floor,
        partial=tuple(roles(partial)),
        dataset=dataset,
        strict=strict,
        verbose=verbose,
        passphrase=passphrase(PASSPHRASE_VARIABLE),
    )
    settings.check()
    code, told = run_command(command, settings.variables())
    _tell(told, verbose=verbose)
    raise typer.Exit(end_as(code))


def _tell(told: Told, *, verbose: bool) -> None:
    """On stderr, in a line or two, what became of what was saved."""
    from manifest.escaping import printable
    from manifest.training.account import words_of_lost, words_of_none

    names = ", ".join(_shown(path) for path in told.described[-3:]) or "nothing"
    more = f" and {len(told.described) - 3} before" if len(told.described) > 3 else ""
    lines = [f"described {names}{more}"]
    if not told.processes:
        lines = [
            "nothing was recorded: no process on this machine imported torch in a Python that has this package; "
            "install checkpoint-manifest where the command's Python looks for torch"
        ]
    lines += [f"{_shown(path)} got no manifest: {why}" for path, why in told.failed]
    if told.lost:
        lines.append(words_of_lost(told.lost, told.made))
    elif told.made and not (told.described or told.failed):
        lines.append(words_of_none(told.made))
    if verbose:
        lines += [f"left {_shown(path)} alone: {why}" for path, why in told.left_alone]
    elif told.left_alone:
        lines[0] += f"; left {len(told.left_alone)} alone (--verbose says why)"
    for line in lines:
        print(f"manifest: {printable(line, 2000)}", file=sys.stderr)


def _shown(path: Path) -> str:
    """A path as it is seen from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)

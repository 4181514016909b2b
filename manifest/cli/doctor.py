"""`manifest doctor`: is this model deterministic here, and if not, why?"""

from __future__ import annotations

from typing import Annotated

import typer

from manifest.cli.options import Allow, Argument, Format, FormatOption, NoColor, Output, Quiet, argument_of
from manifest.cli.printing import finish
from manifest.errors import InputError


def run(
    checkpoint: Annotated[
        str | None, typer.Argument(metavar="[CKPT]", help="A checkpoint with its manifest.", show_default=False)
    ] = None,
    family: Annotated[str, typer.Option("--family", help="The model library, with --model.")] = "open_clip",
    model: Annotated[str | None, typer.Option("--model", help="A model to make, instead of a checkpoint.")] = None,
    argument: Argument = None,
    train: Annotated[bool, typer.Option("--train", help="Look at it in train mode.")] = False,
    allow: Allow = None,
    format: FormatOption = Format.TEXT,
    output: Output = None,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Find what makes a model give other answers to the same question: cause, size of the effect, cure.

    Exit codes: 0 nothing does; 1 something does; 2 it could not be looked at.
    """
    if (checkpoint is None) == (model is None):
        raise InputError("One of CKPT and --model is expected; pass the one that you have.")
    from manifest.workflows.doctoring import doctor

    arguments = dict(argument_of(item) for item in argument or [])
    subject = checkpoint if model is None else model
    assert subject is not None
    report = doctor(
        subject, family=None if model is None else family, arguments=arguments, train=train, allow=allow or ()
    )
    finish(report, format, output, quiet=quiet, color=not no_color)

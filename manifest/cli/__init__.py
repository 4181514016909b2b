"""The command line: one file a command, each a thin skin over one use case."""

from __future__ import annotations

import io
import os
import sys

import typer

from manifest.cli import (
    audit,
    convert,
    create,
    diagnose,
    diff,
    doctor,
    keygen,
    log,
    policy,
    repair,
    rule,
    run,
    schema,
    show,
    sign,
    verify,
)
from manifest.cli.printing import complain
from manifest.errors import ManifestError

app = typer.Typer(
    name="manifest",
    help="Fingerprints model checkpoints and holds them to account.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    *(create, verify, diff, diagnose, doctor, audit, run, show, log),
    *(convert, sign, repair, keygen, rule, schema),
):
    app.command(name=command.__name__.rpartition(".")[2])(command.run)
app.add_typer(policy.app, name="policy")


def main() -> None:
    """Entry point: a problem is one sentence on stderr and an exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without ✔ is no reason to fail
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except ManifestError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        sys.exit(1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again on its way out
        complain(
            f"{error.filename or 'The output'} cannot be read or written ({error.strerror}); choose another place."
        )
        sys.exit(2)

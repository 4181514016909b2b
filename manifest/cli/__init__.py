"""The command line: one file a command, each a thin skin over one use case."""

from __future__ import annotations

import sys

import typer

from manifest.cli import create, keygen, rule, schema, show, sign, verify
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
for command in (create, verify, show, sign, keygen, rule, schema):
    app.command(name=command.__name__.rpartition(".")[2])(command.run)


def main() -> None:
    """Entry point: a problem is one sentence on stderr and an exit code, never a traceback."""
    try:
        app()
    except ManifestError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        sys.exit(1)

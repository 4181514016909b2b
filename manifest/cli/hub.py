"""`manifest push` and `pull`: checkpoints to and from a hub, together with their manifests."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from manifest.cli.options import Checkpoint, Format, NoColor, Quiet, TrustedKey
from manifest.cli.printing import emit, finish


def push(
    checkpoint: Checkpoint,
    repository: Annotated[
        str,
        typer.Argument(metavar="OWNER/REPO", help="The repository; made where it is not there.", show_default=False),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="The branch; made where it is not there.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
    card: Annotated[bool, typer.Option("--card/--no-card", help="Write the section of its README.md.")] = True,
    key: TrustedKey = None,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit.", show_default=False)] = None,
    no_color: NoColor = False,
) -> None:
    """Push a checkpoint with its manifest, its signature and its section of the README to a hub, in one commit.

    It is verified first, as `verify --fast` does. Exit codes: 0 it was pushed; 1 it fails the checks, and was not;
    2 it could not be checked or pushed.
    """
    from manifest.hub.uploading import push as push_to_hub
    from manifest.schema.report import VerificationError

    _quieten_library()
    try:
        pushed = push_to_hub(
            checkpoint, repository, revision=revision, private=private, card=card, key=key, message=message
        )
    except VerificationError as error:
        finish(error.report, Format.TEXT, None, quiet=False, color=not no_color)
    emit(f"Pushed: {pushed}", None)


def pull(
    repository: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/REPO[@REVISION]",
            help="The repository, and a branch, tag or commit of it.",
            show_default=False,
        ),
    ],
    file: Annotated[
        str | None,
        typer.Argument(metavar="FILE", help="The checkpoint, where several have manifests.", show_default=False),
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Where it is put, under its name.")] = Path(),
    key: TrustedKey = None,
    full: Annotated[bool, typer.Option("--full", help="Check it fully, as `verify` without `--fast`.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace other files that are there.")] = False,
    quiet: Quiet = False,
    no_color: NoColor = False,
) -> None:
    """Download a checkpoint from a hub with its manifest and signature, and put it in place once it passes the checks.

    Nothing but what its manifest names is downloaded. Exit codes: 0 it passes and is there; 1 it fails, and nothing was
    put there; 2 it could not be downloaded or checked.
    """
    from manifest.hub.downloading import pulled
    from manifest.schema.report import VerificationError

    _quieten_library()
    try:
        done = pulled(repository, file, to=to, key=key, full=full, force=force)
    except VerificationError as error:
        finish(error.report, Format.TEXT, None, quiet=quiet, color=not no_color)
    if not quiet:
        emit(f"Pulled: {done.path} of {done.commit}", None)
    finish(done.report, Format.TEXT, None, quiet=quiet, color=not no_color)


def _quieten_library() -> None:
    """Keep the library's warnings from stderr, where the command tells what fails; also its bars, if not a terminal."""
    from huggingface_hub.utils import disable_progress_bars, logging

    if "HF_HUB_VERBOSITY" not in os.environ:
        logging.set_verbosity_error()
    if not sys.stderr.isatty():
        disable_progress_bars()
    warnings.filterwarnings("ignore", module=r"huggingface_hub\b")

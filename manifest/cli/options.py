"""Options that several commands take, defined once."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from manifest.errors import InputError, KeyFileError, PassphraseMissingError

if TYPE_CHECKING:
    from manifest.signing import PrivateSigner


class Format(StrEnum):
    """How a report is printed."""

    TEXT = "text"
    JSON = "json"
    SARIF = "sarif"
    JUNIT = "junit"
    MARKDOWN = "markdown"
    HTML = "html"


class ShownFormat(StrEnum):
    """How something is printed that is no report."""

    TEXT = "text"
    JSON = "json"


class Engine(StrEnum):
    """Where many checkpoints are checked."""

    LOCAL = "local"
    RAY = "ray"


class FailOn(StrEnum):
    """From which severity on a finding makes a command end with 1."""

    ERROR = "error"
    WARNING = "warning"
    NEVER = "never"


Checkpoint = Annotated[
    Path, typer.Argument(metavar="CKPT", help="The checkpoint: a file, or a directory of files.", show_default=False)
]
Places = Annotated[
    list[str],
    typer.Argument(metavar="CKPT...", help="Checkpoints, folders of them, or patterns.", show_default=False),
]
PolicyFile = Annotated[
    Path | None,
    typer.Option("--policy", help="YAML file of what is demanded; `manifest policy example`.", show_default=False),
]
Against = Annotated[
    Path | None,
    typer.Option(
        "--against",
        help="Look for relatives in a folder of manifests, or an index.",
        metavar="PLACE",
        show_default=False,
    ),
]
FailOnOption = Annotated[FailOn, typer.Option("--fail-on", help="What makes it end with 1.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log on stderr what is opened, hashed, built and skipped.")
]
State = Annotated[
    str | None,
    typer.Option("--state", help="Which weights of several, by their keys, as in model_ema.", show_default=False),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write the result to a file.")]
JournalFile = Annotated[
    Path | None,
    typer.Option(
        "--journal",
        help="Keep each result in this file, and check nothing again that is in it: .jsonl, .sqlite or .parquet.",
        show_default=False,
    ),
]
EngineName = Annotated[
    Engine, typer.Option("--engine", help="Where many are checked: by this machine, or by a Ray cluster.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that check; one a processor if not given.", show_default=False),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Check again also what is in the journal.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing unless something is wrong.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Print without colours.")]
SigningKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Private key to sign with: a file, env:VARIABLE, at another URI; or sigstore:.",
        show_default=False,
    ),
]
TrustedKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Public key of the signer you trust: a file, env:VARIABLE, or sigstore:NAME?issuer=URL.",
        show_default=False,
    ),
]
TrustFile = Annotated[
    Path | None,
    typer.Option(
        "--trust", help="YAML file of whose signatures count; `manifest trust`.", metavar="FILE", show_default=False
    ),
]
PassphraseVariable = Annotated[
    str,
    typer.Option("--passphrase-env", help="Environment variable that holds the key's passphrase."),
]
PassphraseDescriptor = Annotated[
    int | None,
    typer.Option("--passphrase-fd", help="File descriptor to read the passphrase from.", show_default=False),
]
Partial = Annotated[
    str,
    typer.Option(
        "--partial", help="Components that are absent or untrained by design, as in text_tower,text_projection."
    ),
]
NoGolden = Annotated[bool, typer.Option("--no-golden", help="Record no golden outputs.")]
NoKinship = Annotated[
    bool, typer.Option("--no-kinship", help="Record no sketches of the weights, by which `relate` compares manifests.")
]
Probes = Annotated[
    list[Path] | None,
    typer.Option("--probe", help="Directory of images and a prompts.txt to ask, too.", metavar="DIR"),
]
Floor = Annotated[str, typer.Option("--floor", help="Time for the numerics floor: quick, full or none.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", help="Module or script of your own that may be run to rebuild it.", metavar="MODULE"),
]

Argument = Annotated[
    list[str] | None,
    typer.Option("--argument", help="Any other argument of the builder, as NAME=JSON.", show_default=False),
]

PASSPHRASE_VARIABLE = "MANIFEST_PASSPHRASE"
_LONGEST_SECRET = 4096


def passphrase(variable: str, descriptor: int | None = None) -> bytes | None:
    """The passphrase in a file descriptor, or else in an environment variable; None where neither is given."""
    if descriptor is not None:
        return _read_secret(descriptor)
    value = os.environ.get(variable)
    return os.fsencode(value) if value is not None else None


def new_passphrase(variable: str, descriptor: int | None = None) -> bytes:
    """The passphrase of a key that is made, or else what somebody at the terminal types twice.

    Raises:
        KeyFileError: There is none, or what was typed was not the same twice.
    """
    import getpass

    given = passphrase(variable, descriptor)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise KeyFileError(f"There is no passphrase to encrypt the key by; {_how_given(variable)}.")
    first, second = (os.fsencode(getpass.getpass(prompt)) for prompt in ("New passphrase: ", "The same again: "))
    if first != second:
        raise KeyFileError("The two passphrases differ, so no key was made; run the command again.")
    return first


def signing_key(key: str, variable: str, descriptor: int | None = None) -> PrivateSigner:
    """A private key, read.

    Its passphrase comes out of a file descriptor, or else of an environment variable, or else from whoever sits at the
    terminal, who is asked only where the key is encrypted or in a token.

    Raises:
        KeyFileError: The key cannot be used.
    """
    import getpass

    from manifest.signing import load_private_key

    secret = passphrase(variable, descriptor)
    try:
        if secret is None and key.startswith("hsm:") and sys.stdin.isatty():
            secret = os.fsencode(getpass.getpass(f"PIN of {key}: "))
        return load_private_key(key, secret)
    except PassphraseMissingError as error:
        if descriptor is None and sys.stdin.isatty():
            return load_private_key(key, os.fsencode(getpass.getpass(f"Passphrase of {key}: ")))
        raise KeyFileError(f"{str(error).partition(';')[0]}; {_how_given(variable)}.") from None


def _how_given(variable: str) -> str:
    return f"set it in the environment variable {variable}, or give it by `--passphrase-fd`"


def _read_secret(descriptor: int) -> bytes:
    """What can be read from a file descriptor, without a line's end behind it."""
    try:
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_LONGEST_SECRET).removesuffix(b"\n")
    except OSError as error:
        raise KeyFileError(
            f"The file descriptor {descriptor} cannot be read ({error.strerror}), expected the passphrase in it; open "
            f"it, as in `--passphrase-fd {descriptor} {descriptor}< FILE`."
        ) from None


def roles(partial: str) -> list[str]:
    """The component roles of a `--partial` option."""
    return [role.strip() for role in partial.split(",") if role.strip()]


def argument_of(text: str) -> tuple[str, Any]:
    """Name and value of an `--argument` option; what is no JSON is text.

    Raises:
        InputError: It has no name.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--argument is {text!r}, expected NAME=JSON, as in patch_dropout=0.5.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value

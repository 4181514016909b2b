"""The command line: one file a command, each a thin skin over one use case."""

from __future__ import annotations

import codecs
import contextlib
import functools
import inspect
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer

from manifest import progress
from manifest.cli.options import Verbose
from manifest.cli.printing import complain, showing_progress
from manifest.collecting import collect_seldom
from manifest.errors import ManifestError
from manifest.escaping import in_fewer_characters, show_log
from manifest.version import __version__

_INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""
_COMMANDS = (
    *("create", "verify", "diff", "diagnose", "doctor", "audit", "run", "show", "card", "bom", "log", "relate"),
    *("index", "convert", "sign", "push", "pull", "repair", "keygen", "trust", "rule", "schema", "policy"),
)
"""In the order of the help."""
_ELSEWHERE = {
    **{"card": ("show", "card"), "bom": ("show", "bom"), "relate": ("log", "relate")},
    "index": ("log", "index"),
    **{"keygen": ("sign", "keygen"), "trust": ("sign", "trust")},
    **{"push": ("hub", "push"), "pull": ("hub", "pull")},
}
"""Commands that are in another one's module: that, and the function."""
_QUIET = frozenset({"--quiet", "-q"})


def _with_verbose(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes `--verbose` after its name too."""
    signature = inspect.signature(command, eval_str=True)
    if "verbose" in signature.parameters:  # it has a use of its own for it
        return command

    @functools.wraps(command)
    def logged(*, verbose: bool, **options: Any) -> None:
        if verbose:
            show_log()
        try:
            command(**options)
        except KeyboardInterrupt:
            complain("interrupted; no file was left half-written.")
            raise typer.Exit(_INTERRUPTED) from None

    added = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    logged.__signature__ = signature.replace(parameters=[*signature.parameters.values(), added])  # type: ignore[attr-defined]
    logged.__annotations__ = {each.name: each.annotation for each in logged.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return logged


def _versions(asked: bool) -> None:
    """Print the versions that matter to a report of a fault; no library is imported for it."""
    if asked:
        from manifest.fingerprints import environment

        found = environment.library_versions()
        print(f"manifest {__version__}")
        print(f"python {environment.python_version()}")
        for name in ("torch", "open_clip_torch", "timm", "safetensors"):
            print(f"{name} {found.get(name, '(not installed)')}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_versions, help="Print versions, and end.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    del version
    if verbose:
        show_log()


def _first(words: Sequence[str]) -> str:
    """The command that is meant; empty where none is named."""
    return next((word for word in words if not word.startswith("-")), "")


def application(words: Sequence[str] = ()) -> typer.Typer:
    """The command line, with the command that is meant, whose module alone is imported, or with all of them.

    Args:
        words: What follows the program's name.
    """
    app = typer.Typer(
        name="manifest",
        help="Fingerprints model checkpoints and holds them to account.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_main)
    first = _first(words)
    # All for the help, and for suggestions.
    meant = () if words == ["--version"] else (first,) if first in _COMMANDS else _COMMANDS
    for name in meant:
        home, function = _ELSEWHERE.get(name, (name, "run"))
        command = getattr(import_module(f"manifest.cli.{home}"), function)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name=name)(_with_verbose(command))
    return app


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Inside, Ctrl-C ends the threads that read, too."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # somebody waits for it himself, or it is ignored
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        progress.stop()
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Entry point: a problem is one sentence on stderr and an exit code, never a traceback."""
    collect_seldom()
    codecs.register_error("manifest", in_fewer_characters)
    if _first(sys.argv[1:]) != "run":  # whose script may have plugins of pydantic; to look for them takes long
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="manifest")  # a terminal without ✔ is no reason to fail
    try:
        try:
            with _interruptible(), showing_progress(shown=not _QUIET.intersection(sys.argv)):
                application(sys.argv[1:])()
        finally:
            sys.stdout.flush()
    except ManifestError as error:
        complain(str(error))
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from manifest.installing import what_is_missing

        missing = what_is_missing(error)
        if missing is None:
            raise
        complain(f"this {missing}. `audit`, `show`, `log`, `convert`, `sign` and `verify --fast` do without.")
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has gone; there is nobody to tell
        sys.exit(1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again on its way out
        complain(
            f"{error.filename or 'The output'} cannot be read or written ({error.strerror}); choose another place."
        )
        sys.exit(2)

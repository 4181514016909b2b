"""`manifest run`: a training script, unchanged, whose checkpoints get their manifests."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from manifest.cli.options import SigningKey, roles
from manifest.cli.printing import show_log
from manifest.errors import InputError

if TYPE_CHECKING:
    from manifest.training.recorder import CheckpointRecorder

Command = Annotated[
    list[str],
    typer.Argument(metavar="-- COMMAND...", help="`python train.py …`, `-m package.module …`, or `torchrun …`."),
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
    """Run a training script, and follow each checkpoint that it saves by its manifest.

    Exit codes: those of the script; 2 when it could not be started.
    """
    from manifest.training.script import is_launcher, launch, python_arguments, run_python

    if is_launcher(command):
        launch(command, _options(key, golden, floor, partial, dataset, strict=strict, verbose=verbose))
    if verbose:
        show_log()
    from manifest.training.interception import recording

    chosen = roles(partial)
    with recording(key=key, golden=golden, floor=floor, partial=chosen, dataset=dataset, strict=strict) as recorder:
        code = _exit_code(lambda: run_python(python_arguments(command)))
    if int(os.environ.get("RANK", "0")) == 0:
        _tell(recorder, verbose=verbose)
    raise typer.Exit(code)


def _exit_code(script: Callable[[], None]) -> int:
    """What a script ends with; its errors are told as Python tells them, and are not this program's."""
    try:
        script()
    except InputError:
        raise
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception as error:  # whatever the script raises
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _options(
    key: str | None, golden: str, floor: str, partial: str, dataset: str | None, *, strict: bool, verbose: bool
) -> list[str]:
    """The options again, for the processes that a launcher starts."""
    options = [f"--golden={golden}", f"--floor={floor}"]
    options += [f"--key={key}"] if key is not None else []
    options += [f"--partial={partial}"] if partial else []
    options += [f"--dataset={dataset}"] if dataset is not None else []
    return options + ["--strict"] * strict + ["--verbose"] * verbose


def _tell(recorder: CheckpointRecorder, *, verbose: bool) -> None:
    """On stderr, in a line or two, what became of what was saved."""
    from manifest.escaping import printable

    names = ", ".join(path.name for path in recorder.described[-3:]) or "nothing"
    more = f" and {len(recorder.described) - 3} before" if len(recorder.described) > 3 else ""
    lines = [f"described {names}{more}"]
    lines += [f"{path.name} got no manifest: {why}" for path, why in recorder.failed]
    if verbose:
        lines += [f"left {path.name} alone: {why}" for path, why in recorder.left_alone]
    elif recorder.left_alone:
        lines[0] += f"; left {len(recorder.left_alone)} alone (--verbose says why)"
    for line in lines:
        print(f"manifest: {printable(line, 2000)}", file=sys.stderr)

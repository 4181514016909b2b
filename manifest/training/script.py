"""Running a training script, as Python would, with its saves recorded."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifest.errors import InputError

_PYTHONS = {"python", "python3", Path(sys.executable).name}


def run_python(arguments: Sequence[str]) -> None:
    """Run a script, or a module after `-m`, as the main program of this process.

    Args:
        arguments: As they follow `python`: `train.py --lr 1`, or `-m package.module --lr 1`.

    Raises:
        InputError: There is nothing to run, or no such script.
        SystemExit: As the script raises it.
    """
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        sys.path[0] = str(Path.cwd())
        sys.argv = list(arguments[1:])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    if not arguments or arguments[0].startswith("-"):
        given = f" and {arguments[0]} was given" if arguments else ""
        raise InputError(f"`manifest run` runs a script or `-m MODULE`{given}: `manifest run -- python train.py …`.")
    if not Path(arguments[0]).is_file():
        raise InputError(f"There is no script {arguments[0]}; check the path.")
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


def python_arguments(command: Sequence[str]) -> list[str]:
    """What follows `python` in a command, which may be left out before a script's name or `-m`."""
    words = list(command)
    return words[1:] if words and Path(words[0]).name in _PYTHONS else words


def is_launcher(command: Sequence[str]) -> bool:
    """Whether a command starts several processes, each of which is to be recorded."""
    words = python_arguments(command)
    return words[:2] == ["-m", "torch.distributed.run"] or [Path(word).name for word in words[:1]] == ["torchrun"]


def launch(command: Sequence[str], options: Sequence[str]) -> None:
    """Replace this process by torchrun, with `manifest run` in each process that it starts.

    Args:
        command: `torchrun …`, or `python -m torch.distributed.run …`.
        options: Of `manifest run`.
    """
    from torch.distributed.run import parse_args

    words = python_arguments(command)
    words = words[2:] if words[0] == "-m" else words[1:]
    parsed: Any = parse_args(words)  # type: ignore[no-untyped-call]
    own = words[: len(words) - len(parsed.training_script_args) - 1]
    module = [word for word in own if word in ("-m", "--module")]
    script = [*(["-m"] if module else []), parsed.training_script, *parsed.training_script_args]
    launcher = [word for word in own if word not in (*module, "--")]
    # After "--", or torchrun would take options of the script for abbreviations of its own.
    inner = ["-m", "--", "manifest", "run", *options, "--", "python", *script]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *launcher, *inner])

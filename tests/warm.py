"""Processes that begin with the libraries imported, forked from a server that did nothing else than import them.

Importing torch, torchvision, timm and open_clip takes some four seconds of a processor, and the scripts that tests run
all begin with that. What is about the start of a process itself (its options, its command line, signals) is tested with
processes that begin as everybody's do.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from manifest.training.settings import RECORD
from manifest.training.startup import arm

_PRELOADED = ["torch", "open_clip", "timm", "tests.warm"]
_THREADS = {"OMP_NUM_THREADS": "1"}  # a forked process must not wait for threads of the server


def warm_run(
    arguments: Sequence[object], cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in a process with the libraries imported, on one thread.

    Args:
        arguments: A script, `-m` and a module, or `-c` and a program, and what these are given.
        cwd: Its working directory.
        env: Its environment; that of this process when None.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with patch.dict(os.environ, _THREADS):
        forkserver.ensure_running()
    words = [str(each) for each in arguments]
    with tempfile.TemporaryDirectory() as place:
        streams = [str(Path(place) / name) for name in ("stdout", "stderr")]
        process = context.Process(target=_begin, args=(words, str(cwd), dict(env or os.environ), streams))
        process.start()
        process.join()
        out, err = (Path(stream).read_text(encoding="utf-8", errors="replace") for stream in streams)
    return subprocess.CompletedProcess(words, process.exitcode, out, err)


def _begin(words: Sequence[str], cwd: str, env: Mapping[str, str], streams: Sequence[str]) -> None:
    """Become what `python WORDS` is, and end as it does."""
    for number, stream in enumerate(streams, start=1):
        descriptor = os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.orig_argv = [sys.executable, *words]
    if RECORD in env:
        arm()  # which Python does as it starts, by a line in its site-packages
    code = 0
    try:
        _run(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:]]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")

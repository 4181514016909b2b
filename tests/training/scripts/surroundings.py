"""What a program sees of itself and of its process, printed; also as Python ends."""

from __future__ import annotations

import atexit
import os
import pickle
import sys

import torch

import __main__


class Config:
    """Of the main module, as a script's own classes are."""

    width = 3


def facts(where: str) -> None:
    """Print what may not depend on being recorded."""
    loaded = pickle.loads(pickle.dumps(Config()))
    assert type(loaded) is Config
    print(
        where, sys.argv[1:], __name__, __file__, Config.__module__, __main__.__file__, sys.path[0], sys.flags.optimize
    )
    print(where, sys.gettrace(), sys.excepthook.__name__, torch.get_num_threads(), flush=True)


if __name__ == "__main__":
    atexit.register(facts, "at the end")
    atexit.register(os.chdir, "..")
    facts("at first")
    raise SystemExit(f"ended {torch.__version__}")

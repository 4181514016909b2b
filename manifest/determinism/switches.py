"""The switches and generators that decide whether two runs compute the same, all set in one call and put back in one.

Sources: PyTorch's notes on reproducibility, `torch.use_deterministic_algorithms`, and cuBLAS's own on workspaces.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch

from manifest.errors import InputError
from manifest.fingerprints import environment
from manifest.warning import warn

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_GREATEST_SEED = 2**32 - 1  # NumPy's legacy generator takes no greater one


@dataclass(frozen=True)
class _Switch:
    """Something global with a value: how to read it, how to write it, and what it is for the same results."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    wanted: Any


def _attribute(owner: Any, name: str, wanted: Any) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), wanted)


def _set_workspace(value: str | None) -> None:
    if value is None:
        os.environ.pop(_WORKSPACE, None)
    else:
        os.environ[_WORKSPACE] = value


def _set_algorithms(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _switches(*, tf32: bool, warn_only: bool) -> dict[str, _Switch]:
    """The switches, in the order in which they are set."""
    cudnn: Any = torch.backends.cudnn
    switches = {
        "cudnn.deterministic": _attribute(cudnn, "deterministic", True),
        "cudnn.benchmark": _attribute(cudnn, "benchmark", False),
        "deterministic_algorithms": _Switch(
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            _set_algorithms,
            (True, warn_only),
        ),
        "fill_uninitialized_memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory", True),
        _WORKSPACE: _Switch(
            lambda: os.environ.get(_WORKSPACE), _set_workspace, os.environ.get(_WORKSPACE) or ":4096:8"
        ),
    }
    if not tf32:
        switches |= {
            f"{name}.fp32_precision": _attribute(owner, "fp32_precision", "ieee")
            for name, owner in environment.precision_owners(torch).items()
        }
    return switches


class Generators:
    """The states of all generators: of Python, NumPy, torch on the CPU and on every accelerator."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        """Make every generator go on from where it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


class deterministic:  # noqa: N801 - a call and a context manager, as `torch.no_grad` is
    """Seed every generator and set every switch for the same results, until `undo` or the end of the `with`.

    What only the start of Python can set, or came too late, is in `notes`, and warned of.

    Args:
        seed: For Python, NumPy and torch, on the CPU and on every accelerator: 0 to 2³² - 1.
        tf32: Leave the precision of float32 products as it is, instead of full.
        warn_only: Let operators without a deterministic form run with a warning, instead of raising.

    Attributes:
        seed: The seed.
        notes: What could not be set from inside a running process, one sentence each.

    Raises:
        InputError: No generator takes such a seed.

    Example:
        >>> import torch
        >>> with manifest.deterministic(seed=7):
        ...     first = torch.randn(3)
        >>> settings = manifest.deterministic(seed=7)
        >>> torch.equal(torch.randn(3), first)
        True
        >>> settings.undo()
    """

    def __init__(self, seed: int = 0, *, tf32: bool = False, warn_only: bool = False) -> None:
        if not 0 <= seed <= _GREATEST_SEED:
            raise InputError(f"The seed is {seed}, expected 0 to {_GREATEST_SEED}; choose another.")
        self.seed = seed
        self.notes = _notes()
        self._switches = _switches(tf32=tf32, warn_only=warn_only)
        self._generators: Generators | None = Generators()
        self._before = {name: switch.read() for name, switch in self._switches.items()}
        self._seed_before = environment.seed()
        for switch in self._switches.values():
            switch.write(switch.wanted)
        _seed(seed)
        environment.note_seed(seed)
        for note in self.notes:
            warn(note)

    def undo(self) -> None:
        """Put back every switch and every generator as it was; a second time does nothing."""
        if self._generators is None:
            return
        for name in reversed(self._switches):
            self._switches[name].write(self._before[name])
        environment.note_seed(self._seed_before)
        self._generators.restore()
        self._generators = None

    def __enter__(self) -> deterministic:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every generator begins from a seed inside, and goes on from where it was afterwards."""
    before = Generators()
    _seed(seed)
    try:
        yield
    finally:
        before.restore()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of every device


def _notes() -> list[str]:
    """What a running process cannot set any more."""
    notes = []
    if os.environ.get("PYTHONHASHSEED", "random") == "random":
        notes.append(
            "PYTHONHASHSEED is not set, so the order of sets of strings differs between runs; "
            "set it before Python starts: `PYTHONHASHSEED=0 python …`."
        )
    cuda: Any = torch.cuda
    if cuda.is_initialized() and not os.environ.get(_WORKSPACE):
        notes.append(
            f"{_WORKSPACE} was not set when CUDA was initialised, so cuBLAS may have chosen its workspaces already; "
            f"set it before Python starts: `{_WORKSPACE}=:4096:8 python …`."
        )
    return notes


def seed_worker(worker: int) -> None:
    """`worker_init_fn` of a `DataLoader`: seeds Python and NumPy in each worker as torch is seeded there.

    Args:
        worker: Number of the worker, which torch has worked into its seed already.

    Example:
        >>> import random, torch
        >>> from torch.utils.data import DataLoader
        >>> loader = DataLoader(range(8), num_workers=2, worker_init_fn=manifest.seed_worker)
        >>> drawn = []
        >>> for _ in range(2):  # what torch and then the loader do in each worker
        ...     _ = torch.manual_seed(7)
        ...     manifest.seed_worker(0)
        ...     drawn.append(random.random())
        >>> drawn[0] == drawn[1]
        True
    """
    del worker
    seed = torch.initial_seed() % (_GREATEST_SEED + 1)
    random.seed(seed)
    np.random.seed(seed)


def dataloader_generator(seed: int | None = None) -> torch.Generator:
    """`generator` of a `DataLoader`: decides its order of samples and its workers' seeds, and nothing else does.

    Args:
        seed: That of `deterministic` when None, and 0 outside of it.

    Returns:
        A generator on the CPU, seeded, for one `DataLoader`.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> def order():
        ...     loader = DataLoader(range(8), shuffle=True, generator=manifest.dataloader_generator(seed=7))
        ...     return [int(sample) for sample in loader]
        >>> order() == order()
        True
    """
    generator = torch.Generator()
    generator.manual_seed(seed if seed is not None else environment.seed() or 0)
    return generator

"""The process as torch begins it, for as long as a model is built, given its weights, or asked its probe.

A program sets defaults and enters modes that decide what a module is made of and what it says: element type, device,
inference mode, autocast, hooks of all modules, precision of products. They are the caller's, so they are set aside
inside and are the same again afterwards. What only one thread has is set aside for this thread; of what all threads
share, one thread at a time sets it aside, and only where it is not as torch begins.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import overrides
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.nn import functional
from torch.nn.modules import module as modules
from torch.utils import _device
from torch.utils._python_dispatch import _disable_current_modes

_modes: Any = overrides
_lock = threading.RLock()
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC
_PRECISE = frozenset({"ieee", "none"})
_PRODUCTS = ("matmul", "conv", "rnn")
_HOOKS = (
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
)


@contextlib.contextmanager
def neutral_process(*, arithmetic: bool = True, generators: bool = True) -> Iterator[None]:
    """Inside, nothing depends on what the caller has set; afterwards all of it is as it was.

    May be entered again inside, as where code of the user's own has set something meanwhile.

    Args:
        arithmetic: Also compute products of float32 in full, and by the algorithms that torch would choose. Not where
            the caller's own way to compute is what is looked at.
        generators: Also begin every generator of random numbers anew. Not where weights are drawn.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock)
        stack.enter_context(_without_modes())
        stack.enter_context(_ordinary_tensors())
        stack.enter_context(_without_autocast())
        for setting in _settings(arithmetic):
            stack.enter_context(_set(setting))
        if arithmetic:
            stack.enter_context(_full_products())
        stack.enter_context(_without_hooks())
        if generators:
            stack.enter_context(_own_generators())
        yield


@dataclass(frozen=True)
class _Setting:
    """Something that all threads share: how to read it, how to write it, and how torch begins it."""

    read: Callable[[], Any]
    write: Callable[[Any], object]
    neutral: Any


def _settings(arithmetic: bool) -> list[_Setting]:
    future: Any = torch.__future__
    settings = [
        _Setting(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        _Setting(
            future.get_overwrite_module_params_on_conversion, future.set_overwrite_module_params_on_conversion, False
        ),
        _Setting(future.get_swap_module_params_on_conversion, future.set_swap_module_params_on_conversion, False),
        _Setting(torch.get_num_threads, torch.set_num_threads, 1 if forked() else torch.get_num_threads()),
    ]
    if arithmetic:
        settings.append(_Setting(_deterministic, lambda value: _set_deterministic(*value), (False, False)))
        # DeepSpeed puts another one there, of other operators, for all modules of the process.
        settings.append(_Setting(lambda: functional.linear, _set_linear, torch._C._nn.linear))
    return settings


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(enabled: bool, warn_only: bool) -> None:
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _set_linear(function: Callable[..., Any]) -> None:
    functional.linear = function


@contextlib.contextmanager
def _set(setting: _Setting) -> Iterator[None]:
    before = setting.read()
    if before != setting.neutral:
        setting.write(setting.neutral)
    try:
        yield
    finally:
        if setting.read() != before:
            setting.write(before)


@contextlib.contextmanager
def _without_modes() -> Iterator[None]:
    """No default device, and none of the modes that see or replace the calls of torch."""
    held: Any = torch._GLOBAL_DEVICE_CONTEXT
    default, current = getattr(held, "device_context", None), _device.CURRENT_DEVICE
    functions = [_modes._pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    held.device_context, _device.CURRENT_DEVICE = None, None
    disabled = not torch._C._is_torch_function_enabled()
    try:
        with contextlib.ExitStack() as stack:
            if disabled:
                stack.enter_context(torch._C._EnableTorchFunction())
            stack.enter_context(temporarily_clear_interpreter_stack())
            stack.enter_context(_disable_current_modes())
            yield
    finally:
        for _ in range(torch._C._len_torch_function_stack()):  # what code of the user's own left there
            _modes._pop_mode()
        held.device_context, _device.CURRENT_DEVICE = default, current
        for mode in reversed(functions):
            _modes._push_mode(mode)


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Tensors that can be trained, whether the caller is in inference mode or takes no gradients."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextlib.contextmanager
def _without_autocast() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda", "xpu", "mps", "hpu", "privateuseone"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def _full_products() -> Iterator[None]:
    """Products of float32 on the CPU in full precision.

    torch gives the value that each operator takes, be it its own or inherited from its backend or from all backends; so
    that each keeps its own or none, the general ones are out of force while the others are read.
    """
    read, write = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    if all(read("mkldnn", kind) in _PRECISE for kind in _PRODUCTS):
        yield
        return
    own = {}
    for backend, kind in (("generic", "all"), ("mkldnn", "all"), *(("mkldnn", kind) for kind in _PRODUCTS)):
        own[backend, kind] = read(backend, kind)
        write(backend, kind, "none")
    try:
        for (backend, kind), value in own.items():
            if kind == "all":
                write(backend, kind, value)
            else:
                write(backend, kind, "ieee")
        yield
    finally:
        for (backend, kind), value in own.items():
            write(backend, kind, value)


@contextlib.contextmanager
def _without_hooks() -> Iterator[None]:
    """No hooks that every module of the process has."""
    tables: list[dict[int, Any]] = [getattr(modules, name) for name in _HOOKS]
    before = [dict(table) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, held in zip(tables, before, strict=True):
            new = dict(table)
            table.clear()
            table.update(held | new)


@contextlib.contextmanager
def _own_generators() -> Iterator[None]:
    """Generators of Python, NumPy and torch on the CPU that begin from zero, and are put back afterwards."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.default_generator.set_state(before[2])


def forked() -> bool:
    """Whether this process was forked off another one and is still running its program.

    It has none of the threads that computed there, and OpenMP would wait for them for ever: here torch must compute on
    one thread alone.
    """
    return _forked


def _without_other_threads() -> None:
    """In a child: none of the threads that may hold the lock is there."""
    global _lock, _forked
    _lock, _forked = threading.RLock(), True


def _forked_before() -> bool:
    """Whether the process was forked before this module was imported, by its flags in Linux's proc(5)."""
    try:
        flags = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _FORKED_WITHOUT_EXEC)


_forked = _forked_before()
os.register_at_fork(after_in_child=_without_other_threads)

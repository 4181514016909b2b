"""Asking a model its probe, and leaving the model, the threads and the generators as they were.

Golden outputs are always taken in eval mode, without gradients, in float32, on the CPU. A model that is compared as its
owner uses it is asked as it is: in its own mode, element type and on its own device.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from manifest.digests import tensor_digest
from manifest.errors import ArchitectureError, one_line
from manifest.families.protocol import Family
from manifest.golden.layers import watched
from manifest.golden.sketch import sketch
from manifest.neutral_process import forked, neutral_process
from manifest.probes.inputs import VARIABLE, Inputs
from manifest.schema.document import Architecture, Layer, Output, Reading

_log = logging.getLogger(__name__)

Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class ProbeOutputs:
    """What one model said to one probe, in full.

    Attributes:
        inputs: The probe.
        outputs: On the CPU, by name.
        readings: What a person reads off them.
        threads: Threads that computed them.
        layers: What each layer gave, where that was asked for, in the order in which they finished.
    """

    inputs: Inputs
    outputs: Outputs
    readings: list[Reading]
    threads: int
    layers: Mapping[str, Layer] = field(default_factory=dict)

    def record(self) -> dict[str, Output]:
        """Each output as it is written down: shape, digest, norm, sketch."""
        return {
            name: recorded(self.inputs.probe, name, tensor)
            for name, tensor in self.outputs.items()
            if not name.startswith(VARIABLE)
        }


def run_probe(
    family: Family,
    architecture: Architecture,
    module: nn.Module,
    inputs: Inputs,
    *,
    threads: int | None = None,
    native_mode: bool = False,
    layers: bool = False,
) -> ProbeOutputs:
    """Run a probe through a module, in eval mode and float32 unless it is to run in its own mode.

    Args:
        family: The module's family.
        architecture: What the module was built from.
        module: Its modes, buffers and whatever else it keeps are restored.
        inputs: The probe.
        threads: Threads to compute on; as many as now when None.
        native_mode: Run it in the module's own mode and under the caller's autocast.
        layers: Sketch what each layer gives, too.

    Raises:
        ArchitectureError: The module fails on its own probe.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        if not native_mode:
            # A caller that varies the arithmetic does so around this.
            stack.enter_context(neutral_process(arithmetic=False))
        stack.enter_context(undisturbed(module))
        stack.enter_context(on_threads(threads))
        stack.enter_context(_uncompiled())
        if not native_mode:
            module.eval()
        seen = stack.enter_context(watched(module)) if layers else {}
        try:
            outputs = family.outputs(module, inputs.like(module))
        except ArchitectureError:
            raise
        except Exception as error:  # a model's own code may raise anything
            cure = (
                "see whether it is all in one element type, as `model.float()` makes it"
                if native_mode
                else ("save it with `golden=False`, or correct it")
            )
            raise ArchitectureError(
                f"The model fails on the probe {inputs.probe} ({type(error).__name__}: {one_line(error)}); {cure}."
            ) from error
        # What is no number reads as nothing; callers refuse it.
        readings = family.readings(architecture, module, inputs, outputs) if finite(outputs) else []
        used = torch.get_num_threads()
    _log.debug("ran the probe %s on %d threads in %.2f s", inputs.probe, used, time.perf_counter() - started)
    return ProbeOutputs(inputs, {name: _plain(tensor) for name, tensor in outputs.items()}, readings, used, dict(seen))


def recorded(probe: str, name: str, tensor: torch.Tensor) -> Output:
    """A tensor as it is written down.

    Args:
        probe: Name of the probe that it answers, by which its sketch is keyed.
        name: Name of the output.
        tensor: On the CPU.
    """
    values = tensor.numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    norm = float(np.linalg.norm(values.astype(np.float64)))
    return Output(
        shape=list(tensor.shape),
        dtype=dtype,
        digest=tensor_digest(dtype, tensor.shape, values.reshape(-1).data),
        norm=float(f"{norm:.10g}"),
        sketch=sketch(values, probe=probe, output=name),
    )


def relative_distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Euclidean distance relative to the expected norm."""
    one, other = expected.double(), found.double()
    return float((one - other).norm() / one.norm().clamp_min(torch.finfo(torch.float64).tiny))


def finite(outputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether every value of every output is a finite number."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs.values())


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """On the CPU, in one piece, in a type that NumPy has."""
    tensor = tensor.detach().to("cpu")
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).contiguous()


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Without gradients inside; afterwards every mode, buffer and generator is what it was."""
    modes = {child: child.training for child in module.modules()}
    # In train mode a forward pass moves the statistics of batch norms.
    buffers = {buffer: buffer.clone() for buffer in module.buffers()} if any(modes.values()) else {}
    states = random.getstate(), np.random.get_state()
    devices = sorted({tensor.device.index for tensor in module.parameters() if tensor.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        for buffer, value in buffers.items():
            buffer.copy_(value)
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Inside, what `torch.compile` made runs as it was written, and nothing is compiled anew."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def on_threads(count: int | None) -> Iterator[None]:
    """So many threads inside, as many as now when None; one alone in a process that was forked."""
    before = torch.get_num_threads()
    count = 1 if forked() else count
    try:
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)

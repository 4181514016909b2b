"""Recording golden outputs: what a model says to its family's probe, and how far arithmetic alone moves it.

Always in eval mode, without gradients, in float32, on the CPU; modes, threads and generators are as before afterwards.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from manifest.digests import tensor_digest
from manifest.document import Architecture, Golden, Output, Reading
from manifest.errors import ArchitectureError, one_line
from manifest.families import Family
from manifest.golden.probe import Inputs, inputs_digest
from manifest.golden.sketch import sketch

Outputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Answers:
    """What one model said to one probe, in full."""

    inputs: Inputs
    outputs: Outputs
    readings: list[Reading]
    threads: int

    def record(self) -> dict[str, Output]:
        """Each output as it is written down: shape, digest, norm, sketch."""
        return {name: _output(self.inputs.probe, name, tensor) for name, tensor in self.outputs.items()}


def ask(
    family: Family, architecture: Architecture, module: nn.Module, inputs: Inputs, *, threads: int | None = None
) -> Answers:
    """Run the probe through a module as it is, in eval mode.

    Args:
        family: The module's family.
        architecture: What the module was built from.
        module: A float32 module on the CPU; its modes are restored.
        inputs: The probe.
        threads: Threads to compute on; as many as now when None.

    Raises:
        ArchitectureError: The module fails on its own probe.
    """
    with _as_before(module), _threads(threads), _arithmetic():
        try:
            outputs = family.outputs(module, inputs)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ArchitectureError(
                f"The model fails on the probe {inputs.probe} ({one_line(error)}); "
                "save it with `golden=False`, or correct it."
            ) from error
        # What is no number reads as nothing; callers refuse it.
        readings = family.readings(architecture, module, inputs, outputs) if finite(outputs) else []
        used = torch.get_num_threads()
    outputs = {name: tensor.detach().contiguous() for name, tensor in outputs.items()}
    return Answers(inputs, outputs, readings, used)


def record(
    family: Family,
    architecture: Architecture,
    module: nn.Module,
    answers: Answers,
    rebuilt: Answers,
    variant: Callable[[Architecture], nn.Module],
) -> Golden:
    """Golden outputs with their numerics floor and contrast.

    Args:
        family: The module's family.
        architecture: What the module was built from.
        module: The rebuilt float32 module on the CPU.
        answers: What the model said, which goes on record.
        rebuilt: What the rebuilt module said, from which the floor is measured.
        variant: Builds a module of another architecture over the same weights.
    """
    inputs = answers.inputs

    def relative(outputs: Outputs) -> float:
        return max((_relative(rebuilt.outputs[name], tensor) for name, tensor in outputs.items()), default=0.0)

    def again(threads: int | None = None) -> Outputs:
        return ask(family, architecture, module, inputs, threads=threads).outputs

    other_threads = 1 if answers.threads > 1 else 2
    alone = [ask(family, architecture, module, one) for one in inputs.one_by_one()]
    floor = {
        "repeat": relative(again()),
        "batch": relative(_together(family, inputs, [one.outputs for one in alone])),
        "threads": relative(again(other_threads)),
    }
    mkldnn: Any = torch.backends.mkldnn
    if mkldnn.is_available():
        with _without_onednn():
            floor["kernels"] = relative(again())
    contrast = {
        wrong.name: relative(ask(family, wrong.architecture, variant(wrong.architecture), inputs).outputs)
        for wrong in family.variants(architecture)
    }
    return Golden(
        probe=inputs.probe,
        batch=len(next(iter(inputs.tensors.values()))),
        device="cpu",
        precision="fp32",
        threads=answers.threads,
        inputs=inputs_digest(inputs),
        outputs=answers.record(),
        brief=alone[0].record(),
        floor={name: _significant(value) for name, value in floor.items()},
        contrast={name: _significant(value) for name, value in contrast.items()},
        reading=answers.readings,
    )


def finite(outputs: Mapping[str, torch.Tensor]) -> bool:
    """Whether every value of every output is a finite number."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in outputs.values())


def _together(family: Family, inputs: Inputs, alone: Sequence[Outputs]) -> Outputs:
    """The outputs with a row for each sample, of samples that each came in a batch of its own."""
    return {
        name: torch.cat([outputs[name] for outputs in alone[: len(inputs.tensors[kind])]])
        for name, kind in family.rows.items()
        if name in alone[0]
    }


def _relative(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Euclidean distance relative to the expected norm."""
    one, other = expected.double(), found.double()
    return float((one - other).norm() / one.norm().clamp_min(torch.finfo(torch.float64).tiny))


def _output(probe: str, name: str, tensor: torch.Tensor) -> Output:
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


def _significant(value: float) -> float:
    return float(f"{value:.3g}")


@contextlib.contextmanager
def _as_before(module: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module's mode and every generator's state are what they were."""
    modes = {child: child.training for child in module.modules()}
    states = random.getstate(), np.random.get_state()
    module.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    """oneDNN off inside; `torch.backends.mkldnn.flags` would do, did it not warn where there is no Intel GPU."""
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.enabled
    mkldnn.enabled = False
    try:
        yield
    finally:
        mkldnn.enabled = before


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None and count != before:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _arithmetic() -> Iterator[None]:
    """Plain float32, whatever autocast or default type the caller's code has switched on."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        torch.set_default_dtype(default)

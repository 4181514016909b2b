"""The numerics floor: how far a model moves from what it said when nothing but the arithmetic changes.

Each cause is varied by itself and the greatest relative distance of any output is kept. `quick` varies most causes for
the first samples alone, and one for the whole probe; `full` varies all of them for the whole probe.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from manifest import progress
from manifest.families.protocol import Family
from manifest.golden.detections import match
from manifest.golden.layers import layer_distance
from manifest.golden.run import Outputs, ProbeOutputs, relative_distance, run_probe
from manifest.golden.thoroughness import Thoroughness
from manifest.probes.inputs import VARIABLE, Inputs
from manifest.schema.document import Architecture, Layer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """A model that was rebuilt in float32 on the CPU, and what it was built from."""

    family: Family
    architecture: Architecture
    module: nn.Module

    def ask(
        self, inputs: Inputs, *, threads: int | None = None, native_mode: bool = False, layers: bool = False
    ) -> ProbeOutputs:
        """What it says; see `golden.run.run_probe`."""
        return run_probe(
            self.family,
            self.architecture,
            self.module,
            inputs,
            threads=threads,
            native_mode=native_mode,
            layers=layers,
        )


Elsewhere = Callable[[], Mapping[str, Outputs]]
"""Asks the same model in fresh processes; what is different about each of them → its outputs."""


def measure(
    built: Built,
    answers: ProbeOutputs,
    first: ProbeOutputs,
    thoroughness: Thoroughness,
    elsewhere: Elsewhere | None = None,
) -> dict[str, float]:
    """The floor of a model, by cause.

    Args:
        built: The model.
        answers: What it said to the whole probe.
        first: What it said to the first sample of each kind alone.
        thoroughness: How many causes are varied for how much of the probe.
        elsewhere: Asks it in fresh processes that compute otherwise; only for `full`.
    """
    if thoroughness is Thoroughness.NONE:
        return {}
    asked = answers if thoroughness is Thoroughness.FULL else first

    def moved(cause: str, threads: int | None = None) -> float:
        progress.begin(f"golden outputs: numerics floor, {cause}")
        return _worst(asked.outputs, built.ask(asked.inputs, threads=threads).outputs)

    floor = {
        "repeat": moved("repeat"),
        "threads": moved("threads", 1 if answers.threads > 1 else 2),
        "batch": _worst(_first_rows(built, answers.outputs), first.outputs),
    }
    with without_fused_attention():
        floor["attention"] = moved("attention")
    with without_onednn() as switched:
        if switched:
            progress.begin("golden outputs: numerics floor, kernels")
            other = built.ask(answers.inputs)
            floor["kernels"] = _worst(answers.outputs, other.outputs)
            if any(reading.objects for reading in answers.readings):
                floor["objects"] = match(answers.readings, other.readings).distance
    if thoroughness is Thoroughness.FULL:
        progress.begin("golden outputs: numerics floor, batches and other processes")
        floor |= _batches(built, answers) | _accelerator(built, answers)
        for name, outputs in (elsewhere() if elsewhere is not None else {}).items():
            floor[name] = _worst(answers.outputs, outputs)
    return {name: float(f"{value:.3g}") for name, value in sorted(floor.items())}


def layer_floors(built: Built, first: ProbeOutputs) -> list[Layer]:
    """The layers of an answer, each with how far it moves when the kernels change."""
    with without_onednn() as switched:
        other = built.ask(first.inputs, layers=True).layers if switched else first.layers
    return [
        layer.model_copy(update={"floor": float(f"{layer_distance(layer, other.get(name, layer)):.3g}")})
        for name, layer in first.layers.items()
        if math.isfinite(layer.norm)
    ]


def _worst(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> float:
    both = [
        (tensor, found[name])
        for name, tensor in expected.items()
        if name in found and found[name].shape == tensor.shape and not name.startswith(VARIABLE)
    ]
    return max((relative_distance(one, other) for one, other in both), default=0.0)


def _first_rows(built: Built, outputs: Outputs) -> Outputs:
    return {name: outputs[name][:1] for name in built.family.rows if name in outputs}


def _batches(built: Built, answers: ProbeOutputs) -> dict[str, float]:
    """Every sample alone, in two halves, and in another place of the batch."""
    inputs, rows = answers.inputs, {name: kind for name, kind in built.family.rows.items() if name in answers.outputs}
    if not rows:
        return {}
    by_row = {name: answers.outputs[name] for name in rows}

    def together(parts: list[Inputs]) -> Outputs:
        said = [built.ask(part).outputs for part in parts]
        return {
            name: torch.cat([outputs[name] for outputs in said])[: len(inputs.tensors[kind])]
            for name, kind in rows.items()
        }

    turned = built.ask(inputs.turned()).outputs
    single = {name: tensor for name, tensor in by_row.items() if name not in built.family.pairs}
    return {
        "batch": _worst(by_row, together(list(inputs.one_by_one()))),
        "halves": _worst(single, together(inputs.halves())),
        "position": _worst(single, {name: turned[name].roll(-1, dims=0) for name in single}),
    }


def _accelerator(built: Built, answers: ProbeOutputs) -> dict[str, float]:
    """On a GPU, where there is one: as it is, without cuDNN, with TF32, and with deterministic algorithms."""
    if not torch.cuda.is_available():
        _log.debug("skipped the floor of an accelerator: there is none")
        return {}
    on_gpu = Built(built.family, built.architecture, copy.deepcopy(built.module).to("cuda"))
    cudnn: Any = torch.backends.cudnn
    found = {"cuda": _worst(answers.outputs, on_gpu.ask(answers.inputs).outputs)}
    with cudnn.flags(enabled=False):
        found["cuda, cudnn off"] = _worst(answers.outputs, on_gpu.ask(answers.inputs).outputs)
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        found["cuda, deterministic"] = _worst(answers.outputs, on_gpu.ask(answers.inputs).outputs)
    for name, set_to in (("cuda, tf32", "tf32"), ("cuda, ieee", "ieee")):
        with _precision(set_to):
            found[name] = _worst(answers.outputs, on_gpu.ask(answers.inputs).outputs)
    return found


@contextlib.contextmanager
def _precision(value: str) -> Iterator[None]:
    backends: Any = torch.backends
    owners: list[Any] = [backends.cuda.matmul, backends.cudnn.conv]
    before = [owner.fp32_precision for owner in owners]
    try:
        for owner in owners:
            owner.fp32_precision = value
        yield
    finally:
        for owner, old in zip(owners, before, strict=True):
            owner.fp32_precision = old


@contextlib.contextmanager
def without_onednn() -> Iterator[bool]:
    """oneDNN off inside; whether there is one. `torch.backends.mkldnn.flags` warns where there is no Intel GPU."""
    mkldnn: Any = torch.backends.mkldnn
    before = mkldnn.enabled
    mkldnn.enabled = False
    try:
        yield bool(mkldnn.is_available() and before)
    finally:
        mkldnn.enabled = before


@contextlib.contextmanager
def without_fused_attention() -> Iterator[None]:
    """Attention in plain steps inside: neither the fast path of inference nor a fused kernel."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

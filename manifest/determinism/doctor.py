"""Which parts of a model need not give the same answer twice, shown by what runs and by trying.

Nothing is suspected by its name: a module is in question when its mode makes it another one, an operator when torch
says that it draws random numbers or PyTorch documents that it is not deterministic.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from manifest.determinism.operators import when_not_deterministic
from manifest.determinism.switches import seeded
from manifest.fingerprints.structure import Recorder, on_meta
from manifest.golden.floor import Built, without_fused_attention, without_onednn
from manifest.golden.hypotheses.activations import activation_name, is_activation
from manifest.golden.hypotheses.modules import OTHER_IN_TRAINING
from manifest.golden.run import Outputs, ProbeOutputs, relative_distance
from manifest.probes.inputs import VARIABLE, Inputs

_ARITHMETIC = 1e-4
"""Relative distance up to which float32 is taken to be added up in another order; beyond it something else moved."""


@dataclass(frozen=True)
class Modes:
    """Which modules are in train mode.

    Attributes:
        training: How many are.
        modules: How many there are.
        acting: Paths of those that compute something else in train mode than in eval mode, by class.
        inert: Classes of the same kind that are in train mode with a probability of zero, by how many.
    """

    training: int
    modules: int
    acting: Mapping[str, list[str]]
    inert: Mapping[str, int]


def modes(module: nn.Module) -> Modes:
    """Look at every module's mode."""
    acting: dict[str, list[str]] = {}
    inert: Counter[str] = Counter()
    for path, child in module.named_modules():
        kind = type(child).__name__
        if child.training and kind.startswith(OTHER_IN_TRAINING):
            if _probability(child) == 0:
                inert[kind] += 1
            else:
                acting.setdefault(kind, []).append(path)
    children = list(module.modules())
    return Modes(sum(child.training for child in children), len(children), acting, inert)


def _probability(module: Any) -> float | None:
    """Of being dropped; None where a module has none."""
    for name in ("p", "drop_prob", "prob"):
        value = getattr(module, name, None)
        if isinstance(value, int | float):
            return float(value)
    return None


@dataclass(frozen=True)
class Ran:
    """What ran in a forward pass, as the model is.

    Attributes:
        random: Operators that draw random numbers → the modules that ran them.
        documented: Operators that are documented not to be deterministic → when, and whether they can be made so.
        activations: Operators of each kind of activation, none of which is in `random`.
        count: How many operators ran.
    """

    random: Mapping[str, list[str]]
    documented: Mapping[str, tuple[str, bool]]
    activations: Mapping[str, list[str]]
    count: int


def ran(module: nn.Module, forward: Callable[[nn.Module], object]) -> Ran:
    """Trace a forward pass on the meta device, in the modes that the model is in.

    Args:
        module: The model; it is not changed.
        forward: Asks a copy of it, as `Adapter.forward` does.

    Raises:
        NotImplementedError: The model cannot be asked without values.
    """
    ghost = on_meta(module)
    kinds = {path: activation_name(child) for path, child in ghost.named_modules() if is_activation(child)}
    recorder = _ByModule(ghost)
    with torch.no_grad(), recorder:
        forward(ghost)
    random: dict[str, list[str]] = {}
    activations: dict[str, list[str]] = {}
    for path, names in recorder.by_module.items():
        for name in names:
            if name in recorder.random:
                random.setdefault(name, []).append(path or "the model itself")
            if path in kinds:
                activations.setdefault(kinds[path], []).append(name)
    documented = {name: when for name in recorder.operators if (when := when_not_deterministic(name)) is not None}
    return Ran(
        random,
        documented,
        {kind: sorted(set(names)) for kind, names in activations.items()},
        len(recorder.operators),
    )


class _ByModule(Recorder):  # type: ignore[no-untyped-call]
    """A recorder that knows which module ran what; it leaves its hooks on the module that it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.by_module: dict[str, list[str]] = {}
        self._inside = [""]
        for path, child in module.named_modules():
            child.register_forward_pre_hook(partial(self._enter, path))
            child.register_forward_hook(self._leave)

    def _enter(self, path: str, *_: object) -> None:
        self._inside.append(path)

    def _leave(self, *_: object) -> None:
        self._inside.pop()

    def ran(self, name: str) -> None:
        self.by_module.setdefault(self._inside[-1], []).append(name)


@dataclass(frozen=True)
class Observation:
    """What one experiment showed.

    Attributes:
        size: Greatest relative L2 distance of any output; None where it could not be tried.
        words: What was done, or why it was not.
        cure: What makes it go away; empty where there is nothing to cure.
        arithmetic: Whether numbers were added up in another order, which moves the answers a little.
    """

    size: float | None
    words: str
    cure: str = ""
    arithmetic: bool = True

    @property
    def moves(self) -> bool:
        """Whether the answers moved by more than arithmetic explains."""
        return self.size is not None and self.size > (_ARITHMETIC if self.arithmetic else 0)


@dataclass(frozen=True)
class Trial:
    """A model that experiments are made on.

    Attributes:
        built: The model, in the modes that its owner has it in.
        inputs: What it is asked.
        elsewhere: Asks it in a fresh process with another hash seed; None where that cannot be done.
    """

    built: Built
    inputs: Inputs
    elsewhere: Callable[[], Outputs] | None = None
    plain: ProbeOutputs = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plain", self.built.ask(self.inputs))

    def repeat(self) -> Observation:
        """The same question twice, in the modes that the model is in and, where that matters, in eval mode."""
        size = farthest(self._drawing(0), self._drawing(1))
        if not size:
            return Observation(size, "asked twice as it is")
        words = "asked twice as it is, with other random numbers"
        return Observation(size, words, "" if self._moved() else "model.eval()", arithmetic=False)

    def experiments(self) -> Iterator[tuple[str, Callable[[], Observation]]]:
        """What may move the answers, one thing at a time; all but the first in eval mode."""
        yield "repeat", self.repeat
        yield "eval mode", lambda: Observation(self._moved(), "asked twice in eval mode", arithmetic=False)
        rows = [name for name in self.built.family.rows if name in self.plain.outputs]
        if rows:
            yield "batch", partial(self._alone, rows)
            yield "position", partial(self._elsewhere_in_batch, rows)
        yield "threads", self._on_other_threads
        yield "kernels", self._without_onednn
        yield "attention", self._in_plain_attention
        yield "process", self._in_another_process
        yield from self._on_gpu()

    def _alone(self, rows: Sequence[str]) -> Observation:
        first = self.built.ask(self.inputs.first()).outputs
        return Observation(farthest(_first(self.plain.outputs, rows), first), "a sample alone, and in company", _BATCH)

    def _elsewhere_in_batch(self, rows: Sequence[str]) -> Observation:
        turned = self.built.ask(self.inputs.turned()).outputs
        size = farthest(
            {name: self.plain.outputs[name] for name in rows}, {n: turned[n].roll(-1, dims=0) for n in rows}
        )
        return Observation(size, "samples in another place of the batch", _BATCH)

    def _on_other_threads(self) -> Observation:
        now = self.plain.threads
        threads = 1 if now > 1 else 2
        words = f"{threads} thread{'s' * (threads > 1)} instead of {now}"
        return Observation(self._moved(threads), words, f"torch.set_num_threads({now})")

    def _without_onednn(self) -> Observation:
        with without_onednn() as switched:
            if not switched:
                return Observation(None, "oneDNN is not in use")
            return Observation(self._moved(), "without oneDNN", "torch.backends.mkldnn.enabled as at save time")

    def _in_plain_attention(self) -> Observation:
        with without_fused_attention():
            return Observation(self._moved(), "attention in plain steps", "the same torch version")

    def _in_another_process(self) -> Observation:
        if self.elsewhere is None:
            return Observation(None, "a Python object stays in its process; give the doctor its checkpoint")
        cure = "PYTHONHASHSEED=0, and every layer initialised or loaded"
        return Observation(
            farthest(self.plain.outputs, self.elsewhere()), "a fresh process with another hash seed", cure
        )

    def _drawing(self, seed: int) -> Outputs:
        """As it is, with generators that have moved on: what draws random numbers draws others for each seed."""
        with seeded(seed):
            return self.built.ask(self.inputs, native_mode=True).outputs

    def _moved(self, threads: int | None = None) -> float:
        return farthest(self.plain.outputs, self.built.ask(self.inputs, threads=threads).outputs)

    def _on_gpu(self) -> Iterator[tuple[str, Callable[[], Observation]]]:
        """A sample alone and in company on a GPU, as it is and under each known cure."""
        if not torch.cuda.is_available():
            yield "gpu", lambda: Observation(None, "there is no GPU here")
            return
        module = copy.deepcopy(self.built.module).to("cuda")
        built = Built(self.built.family, self.built.architecture, module)
        cudnn: Any = torch.backends.cudnn

        def company(words: str, cure: str = "", **flags: bool) -> Observation:
            with cudnn.flags(**{"enabled": True, **flags}) if flags else contextlib.nullcontext():
                whole, first = built.ask(self.inputs).outputs, built.ask(self.inputs.first()).outputs
            return Observation(
                farthest(_first(whole, [n for n in built.family.rows if n in whole]), first), words, cure
            )

        yield "gpu", partial(company, "a sample alone, and in company, on the GPU", "the switch below that moves least")
        yield "gpu, cuDNN off", partial(company, "torch.backends.cudnn.enabled = False", enabled=False)
        words = "torch.backends.cudnn.deterministic = True, benchmark = False"
        yield "gpu, cuDNN deterministic", partial(company, words, benchmark=False, deterministic=True)
        yield "gpu, TF32 off", partial(company, "torch.backends.cudnn.allow_tf32 = False", allow_tf32=False)


_BATCH = "compare at the batch size that was recorded"


def _first(outputs: Outputs, rows: Iterable[str]) -> Outputs:
    """What is said of the first sample."""
    return {name: outputs[name][:1] for name in rows}


def farthest(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> float:
    """The greatest relative distance of two answers' outputs, 0 when they are the same bit for bit."""
    return max(
        (_apart(one, found.get(name)) for name, one in expected.items() if not name.startswith(VARIABLE)), default=0.0
    )


def _apart(one: torch.Tensor, other: torch.Tensor | None) -> float:
    if other is None or one.shape != other.shape:
        return math.inf
    return 0.0 if torch.equal(one, other) else relative_distance(one, other)

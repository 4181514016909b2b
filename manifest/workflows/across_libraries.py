"""A model of one library held to one of another: the same function, or the first block that departs.

Two libraries name their outputs otherwise, and may normalise them; features before normalisation, and logits, are the
same quantities in all. So both are asked the same photographs and prompts, prepared as the reference's are, and what
both give is compared as it is, without sketches.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from manifest.checks.explanation import RecordedModel
from manifest.checks.ladder import CheckResult
from manifest.errors import one_line
from manifest.escaping import printable
from manifest.families.protocol import Family
from manifest.golden.run import relative_distance, undisturbed
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Inputs
from manifest.schema.report import CANNOT_TELL
from manifest.schema.rules import finding

WITHIN = 2e-5
"""Relative distance of two float32 models of the same function: other kernels add up in another order, layer by layer.

Measured between open_clip and transformers: at most 1.4e-6 for ViT-B-32, 5.5e-7 for the digits CLIP; there, a wrong
activation moves logits by 1.3e-2."""
_BLOCKS = re.compile(r"(.*\.)?(?:resblocks|layers|layer|blocks)\.(\d+)")


@dataclass
class _Asked:
    """What a model gave, and what its blocks did, by tower and number.

    Attributes:
        outputs: By the name that all libraries share.
        blocks: Path and output of each block, by tower and number.
    """

    outputs: Mapping[str, torch.Tensor]
    blocks: dict[tuple[str, int], tuple[str, torch.Tensor]] = field(default_factory=dict)


def across_libraries(original: RecordedModel, other: Family, module: nn.Module, inputs: Inputs) -> CheckResult | None:
    """Hold a model of another library to the recorded one; None where the two have no outputs in common.

    Args:
        original: The recorded model, in float32.
        other: The family of the other model.
        module: That model; it is asked in eval mode.
        inputs: What both are asked, prepared as recorded.
    """
    then = _ask(original.family, original.built.module, inputs)
    now = _ask(other, module, inputs)
    if then is None or now is None:
        return None
    shared = [name for name in then.outputs if _alike(then.outputs[name], now.outputs.get(name))]
    if not shared:
        return None
    distances = {name: relative_distance(then.outputs[name], now.outputs[name]) for name in shared}
    worst = max(distances, key=lambda name: distances[name])
    names = f"{printable(type(module).__name__)} of {other.name}"
    if distances[worst] <= WITHIN:
        return CheckResult(
            f"the same function as this {names}: {', '.join(shared)} within {distances[worst]:.1e}, and other "
            f"arithmetic moves them by up to {WITHIN:.0e}"
        )
    message = f"This {names} is another function than the recorded model: {worst} differs by {distances[worst]:.1e}"
    message += _first_block(then, now)
    remedy = "Convert the weights anew: look at the block that departs first, its activation, eps and mask."
    found = finding("G001", f"{message}.", where="golden", remedy=remedy, distances=distances)
    return CheckResult("another function", [found])


def not_comparable(error: Exception) -> CheckResult:
    """What is said where the other model cannot be asked."""
    message = f"The model of the other library cannot be asked the recorded probe: {printable(one_line(error), 300)}."
    remedy = "Compare it with a checkpoint of its own kind, or build the recorded one: `manifest.load(CKPT)`."
    return CheckResult("cannot be told", [finding(CANNOT_TELL, message, where="golden", remedy=remedy)])


@neutral_process()
def _ask(family: Family, module: nn.Module, inputs: Inputs) -> _Asked | None:
    asked = _Asked({})
    with undisturbed(module), _watching_blocks(module, asked.blocks):
        module.eval()
        asked.outputs = {
            name: _plain(each) for name, each in family.shared_outputs(module, inputs.like(module)).items()
        }
    return asked if asked.outputs else None


@contextlib.contextmanager
def _watching_blocks(module: nn.Module, seen: dict[tuple[str, int], tuple[str, torch.Tensor]]) -> Iterator[None]:
    """Inside, what each block of a tower gives is kept, the first time that it runs."""
    hooks = []
    for path, child in module.named_modules():
        if (match := _BLOCKS.fullmatch(path)) is not None:
            key = (_tower(match[1] or ""), int(match[2]))

            def keep(_: nn.Module, __: object, output: object, key: tuple[str, int] = key, path: str = path) -> None:
                first = output[0] if isinstance(output, tuple) else output
                if isinstance(first, torch.Tensor):
                    seen.setdefault(key, (path, _plain(first)))

            hooks.append(child.register_forward_hook(keep))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _tower(path: str) -> str:
    """`images` or `texts`; a model with one tower alone sees."""
    return "texts" if "text" in path or path == "transformer." else "images"


def _first_block(then: _Asked, now: _Asked) -> str:
    """The first block that departs, in words; empty where blocks cannot be laid beside one another."""
    departed = [
        (path, other, distance)
        for key, (path, output) in then.blocks.items()
        if key in now.blocks
        for other, found in [now.blocks[key]]
        if _alike(output, found) and (distance := relative_distance(output, found)) > WITHIN
    ]
    if departed:
        path, other, distance = departed[0]
        return f"; the first block to depart is {path} ({other}), by {distance:.1e}"
    if any(key in now.blocks for key in then.blocks):
        return "; no block departs, so what differs comes before or after them, as a projection does"
    return ""


def _alike(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.shape == other.shape


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().cpu()

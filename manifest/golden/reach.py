"""Which parameters no golden output depends on: whatever becomes of those, golden outputs stay as they are.

One backward pass of the probe from random cotangents: where no gradient arrives, no output can tell. Each gradient is
looked at when it is complete and dropped at once, so that a pass holds one at a time.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from manifest import progress
from manifest.golden.floor import Built
from manifest.golden.run import undisturbed
from manifest.neutral_process import neutral_process
from manifest.probes.inputs import Inputs
from manifest.schema.vocabulary import prefixes

_log = logging.getLogger(__name__)


def unreached(built: Built, inputs: Inputs) -> list[str] | None:
    """Parameters that no output depends on, by name or by what only their names begin with.

    Args:
        built: The model; its parameters and their gradients are afterwards what they were.
        inputs: The probe. Its first samples are asked, and all of them where those leave something out.

    Returns:
        None where it cannot be told: an operator of the model has no gradient.
    """
    progress.begin("golden outputs: what they reach")
    module = built.module
    parameters = {
        name: parameter
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter.is_floating_point()
    }
    missed = list(parameters)
    for asked in (inputs.first(), inputs):
        try:
            reached = _reached(built, asked)
        except Exception as error:  # a model's own code may raise anything, and needs no gradients to be of use
            _log.debug("cannot tell what the probe %s reaches: %s", inputs.probe, error)
            return None
        missed = [name for name in missed if parameters[name] not in reached]
        if not missed:
            break
    return prefixes(missed, parameters.keys() - set(missed))


@neutral_process(arithmetic=False)
def _reached(built: Built, inputs: Inputs) -> set[nn.Parameter]:
    module, reached = built.module, set[nn.Parameter]()

    def note(parameter: torch.Tensor) -> None:
        if parameter.grad is not None and bool(parameter.grad.any()):
            reached.add(parameter)  # type: ignore[arg-type]
        parameter.grad = None

    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    before = [(parameter.requires_grad, parameter.grad) for parameter in parameters]
    hooks = []
    with undisturbed(module), torch.enable_grad():
        try:
            for parameter in parameters:
                parameter.grad = None
                tensor: Any = parameter.requires_grad_()  # torch leaves its hooks without types
                hooks.append(tensor.register_post_accumulate_grad_hook(note))
            module.eval()
            outputs = built.family.outputs(module, inputs.like(module))
            told = [tensor for tensor in outputs.values() if tensor.requires_grad]
            draws = torch.Generator().manual_seed(0)
            torch.autograd.backward(told, [torch.randn(each.shape, generator=draws, dtype=each.dtype) for each in told])
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, (asked, gradient) in zip(parameters, before, strict=True):
                parameter.requires_grad_(asked).grad = gradient
    return reached

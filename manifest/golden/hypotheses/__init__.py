"""What goes wrong between weights and answers whatever the library, one kind a module, the likeliest first.

Each hypothesis is a `Variant`: a way to run the same weights, with the code that makes it so and that undoes it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from manifest.families.protocol import Variant
from manifest.golden.hypotheses.activations import activations
from manifest.golden.hypotheses.conclusions import conclusions
from manifest.golden.hypotheses.modules import attention_heads, causal_masks, modes, norm_epsilons, pooling
from manifest.golden.hypotheses.precisions import precisions
from manifest.golden.hypotheses.preprocessing import preprocessing
from manifest.golden.hypotheses.tokens import tokens
from manifest.probes.inputs import Inputs
from manifest.schema.document import Architecture, Preprocess


def hypotheses(
    architecture: Architecture, prepared: Preprocess | None, module: nn.Module, inputs: Inputs
) -> Iterator[Variant]:
    """What may be wrong with any model, the likeliest first.

    Args:
        architecture: Of the model itself.
        prepared: How the photographs of its probe are prepared, where that is known.
        module: The model itself, on any device; it is looked at and not changed.
        inputs: Its probe.
    """
    yield from activations(module, inputs)
    yield from modes(module)
    if prepared is not None and "images" in inputs.tensors:
        yield from preprocessing(architecture, prepared)
    if architecture.tokenizer is not None and "tokens" in inputs.tensors:
        yield from tokens(architecture, architecture.tokenizer)
    yield from precisions()
    yield from norm_epsilons(module)
    yield from attention_heads(module)
    yield from pooling(module)
    yield from causal_masks(module)
    yield from conclusions(module)

"""What a person reads off outputs: for each photograph, the likeliest classes by name, or what each prompt gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from manifest.probes.inputs import Inputs, is_prompt
from manifest.schema.document import Reading

_MOST = 5


def most_likely(logits: torch.Tensor, images: Sequence[str], categories: Sequence[str]) -> list[Reading]:
    """The likeliest classes of each image, with their probabilities.

    Args:
        logits: Of shape (images, classes).
        images: Name of each image.
        categories: Name of each class; where there are none, a class goes by its number.
    """
    scores = logits.double().softmax(dim=-1).topk(min(_MOST, logits.shape[1]), dim=-1)
    return [
        Reading(image=image, prompts={_name(i, categories): round(p, 4) for i, p in zip(indices, values, strict=True)})
        for image, indices, values in zip(images, scores.indices.tolist(), scores.values.tolist(), strict=True)
    ]


def of_prompts(logits: torch.Tensor, inputs: Inputs, *, each_by_itself: bool) -> list[Reading]:
    """The probability of each prompt for each image.

    Args:
        logits: Of shape (images, prompts).
        inputs: What was asked.
        each_by_itself: Whether each pair is judged by itself (sigmoid), or the prompts compete (softmax).
    """
    columns = [index for index, name in enumerate(inputs.names["tokens"]) if is_prompt(name)]
    prompts = [inputs.names["tokens"][index] for index in columns]
    scores = logits.double()[:, columns]
    probabilities = scores.sigmoid() if each_by_itself else scores.softmax(dim=-1)
    return [
        Reading(image=image, prompts={name: round(p, 4) for name, p in zip(prompts, row, strict=True)})
        for image, row in zip(inputs.names["images"], probabilities.tolist(), strict=True)
    ]


def averaged(text_features: torch.Tensor) -> torch.Tensor:
    """One embedding a prompt, of shape (prompts, width), as `open_clip.build_zero_shot_classifier` averages templates.

    Args:
        text_features: Of shape (prompts, width), which are left as they are, or (prompts, templates, width), of which
            each is normalised before the mean is taken; the mean is not normalised again.
    """
    return text_features if text_features.ndim == 2 else functional.normalize(text_features, dim=-1).mean(dim=1)


def logits_of(module: Any, images: torch.Tensor, texts: torch.Tensor, scale: Any = None, *, bias: bool = True) -> Any:
    """Logits of shape (images, prompts): products of embeddings as they are, times the model's own scale if no other.

    Args:
        module: With a `logit_scale`, and a `logit_bias` or none.
        images: Of shape (images, width).
        texts: Of shape (prompts, width).
        scale: Instead of the exponential of `logit_scale`.
        bias: Whether `logit_bias` is added.
    """
    logits = (module.logit_scale.exp() if scale is None else scale) * images @ texts.T
    if bias and getattr(module, "logit_bias", None) is not None:
        logits = logits + module.logit_bias
    return logits


def _name(index: int, categories: Sequence[str]) -> str:
    """Two classes of ImageNet are called crane, and two maillot, so the number goes with the name."""
    return f"{categories[index]} ({index})" if index < len(categories) else f"class {index}"

"""How features become logits, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from manifest.families.protocol import Variant
from manifest.families.readings import averaged, logits_of

_USUAL_SCALE = 100.0
"""What CLIP's scale is clamped to, and examples write down."""
_SAME_SCALE = 1e-5


def conclusions(module: nn.Module) -> Iterator[Variant]:
    """How features become logits, for models that answer with both."""
    yield Variant(
        "features",
        here="as the projection gives them",
        there="normalised",
        cure="encode_image(images, normalize=True)",
        back="encode_image(images, normalize=False)",
        conclude=_normalised,
    )
    scale = getattr(module, "logit_scale", None)
    if not isinstance(scale, torch.Tensor):
        return
    own = float(scale.detach().exp().max())
    for there, cure, features, exponentiated in (
        ("not normalised before the product", "scale * image_features @ text_features.T", False, True),
        ("times logit_scale itself", "model.logit_scale * image_features @ text_features.T", True, False),
    ):
        yield Variant(
            "logits",
            here="exp(logit_scale) times the cosine",
            there=there,
            cure=cure,
            back="model.logit_scale.exp() * normalize(image_features) @ normalize(text_features).T",
            conclude=partial(_other_logits, normalise=features, exponentiate=exponentiated),
        )
    if isinstance(getattr(module, "logit_bias", None), torch.Tensor):
        yield from _of_pairs()
    if abs(own - _USUAL_SCALE) > _SAME_SCALE * own:
        yield _scaled(own, _USUAL_SCALE)  # few numbers are enough to tell it, where none can be fitted to them
    yield Variant(
        "logits",
        here=f"{own:.6g} times the cosine",
        there="another scale",
        cure="scale * normalize(image_features) @ normalize(text_features).T",
        back="model.logit_scale.exp() * normalize(image_features) @ normalize(text_features).T",
        conclude=partial(_other_logits, normalise=True, exponentiate=True),
        fitted=partial(_scaled, own),
    )


def _of_pairs() -> Iterator[Variant]:
    """What is made of the logits of a model that was trained with the sigmoid loss, as if it were another CLIP."""
    for there, cure, bias, softmax, scale in (
        ("no logit_bias", "torch.sigmoid(logits - model.logit_bias)", False, False, None),
        ("softmax over the prompts", "logits.softmax(dim=-1)", True, True, None),
        ("softmax of 100 times the cosine", "(100 * image_features @ text_features.T).softmax(-1)", False, True, 100.0),
    ):
        yield Variant(
            "probabilities",
            here="sigmoid of each logit, with logit_bias",
            there=there,
            cure=cure,
            back="torch.sigmoid(logits), with model.logit_bias in the logits",
            conclude=partial(_of_another_loss, bias=bias, softmax=softmax, scale=scale),
        )


def _of_another_loss(
    module: Any, outputs: dict[str, torch.Tensor], bias: bool, softmax: bool, scale: float | None
) -> dict[str, torch.Tensor]:
    """Logits whose sigmoid is what was read off instead."""
    images = functional.normalize(outputs["image_features"], dim=-1)
    texts = functional.normalize(averaged(outputs["text_features"]), dim=-1)
    logits = logits_of(module, images, texts, scale, bias=bias)
    return {**outputs, "logits": logits.double().softmax(dim=-1).logit() if softmax else logits}


def _scaled(own: float, scale: float) -> Variant:
    """Cosines times a number, whatever the model's own scale is."""
    return Variant(
        "logits",
        here=f"{own:.6g} times the cosine",
        there=f"{scale:.6g} times the cosine",
        cure=f"{scale:.6g} * normalize(image_features) @ normalize(text_features).T",
        back="model.logit_scale.exp() * normalize(image_features) @ normalize(text_features).T",
        conclude=partial(_other_logits, normalise=True, exponentiate=True, scale=scale),
    )


def _normalised(module: nn.Module, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    del module
    return {
        name: functional.normalize(tensor, dim=-1) if name.endswith("_features") else tensor
        for name, tensor in outputs.items()
    }


def _other_logits(
    module: Any, outputs: dict[str, torch.Tensor], normalise: bool, exponentiate: bool, scale: float | None = None
) -> dict[str, torch.Tensor]:
    images, texts = outputs["image_features"], averaged(outputs["text_features"])
    if normalise:
        images, texts = functional.normalize(images, dim=-1), functional.normalize(texts, dim=-1)
    own = module.logit_scale.exp() if exponentiate else module.logit_scale
    return {**outputs, "logits": logits_of(module, images, texts, own if scale is None else scale)}

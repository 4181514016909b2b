"""timm's `create_model`, with a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from manifest.builders.create_model import OnMismatch
from manifest.builders.create_model import create_model as create_any


def create_model(
    model_name: str,
    pretrained: bool = False,
    *,
    on_mismatch: OnMismatch = "raise",
    convert: Sequence[str] = (),
    **kwargs: Any,
) -> nn.Module:
    """`timm.create_model`, remembered; see `manifest.create_model`.

    Args:
        model_name: As timm takes it.
        pretrained: As timm takes it.
        on_mismatch: What to do when the weights of `checkpoint_path` were saved in another architecture: `raise`, or
            `follow` what their manifest says.
        convert: What timm may do to the weights to make them fit: `position_embedding`, `head`.
        **kwargs: As timm takes them.
    """
    return create_any(
        model_name, family="timm", on_mismatch=on_mismatch, convert=convert, pretrained=pretrained, **kwargs
    )

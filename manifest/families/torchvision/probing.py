"""What torchvision's detectors, video and flow models are asked, and what they answer.

A detector's answer has as many boxes as it finds. What its heads say has the same shape every time and is recorded as
any other output; the boxes are read off, and matched with those on record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from manifest.probes.flatten import flatten
from manifest.probes.inputs import VARIABLE, Inputs, Probe
from manifest.schema.document import Found, Reading

_LARGEST_CANVAS = 1333  # pixels a side; torchvision's detectors make larger ones no larger than this
_CLIP = (16, 224)  # frames, pixels a side
_FLOW_SIDE = 128  # pixels
_CORNERS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.25, 0.25))
_SHIFT = 4  # pixels from frame to frame
_MOST_OBJECTS = 20
_DIGITS = 5


def is_detector(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torchvision.models.detection.")


def detect(module: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the heads of a detector say, and the boxes that it makes of it.

    Args:
        module: A detector.
        images: Of shape (images, 3, height, width), 0 to 1.
    """
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            seen[name] = output

        return hook

    head = module.rpn.head if hasattr(module, "rpn") else module.head
    hooks = [
        part.register_forward_hook(keep(name))
        for name, part in {"images": module.transform, "features": module.backbone, "head": head}.items()
    ]
    try:
        answers = module(list(images))
    finally:
        for hook in hooks:
            hook.remove()
    said = flatten(seen["head"], "head")
    if hasattr(module, "roi_heads"):
        said |= _of_regions(module.roi_heads, seen["features"], seen["images"][0].image_sizes)
    for index, answer in enumerate(answers):
        said |= {f"{VARIABLE}{index}.{name}": answer[name] for name in ("boxes", "labels", "scores")}
    return said


def _of_regions(heads: Any, features: Any, sizes: Sequence[tuple[int, int]]) -> dict[str, torch.Tensor]:
    """What the second stage says of the same regions every time, since the first one proposes any number."""
    features = {"0": features} if isinstance(features, torch.Tensor) else features
    like = next(iter(features.values()))
    regions = [
        torch.tensor(
            [[0.0, 0.0, width, height] for height, width in [size]]
            + [
                [x * width, y * height, (x + 0.5) * width, (y + 0.5) * height]
                for height, width in [size]
                for x, y in _CORNERS
            ]
        ).to(like)
        for size in sizes
    ]
    said: dict[str, torch.Tensor] = {}
    for kind in ("box", "mask", "keypoint"):
        if (head := getattr(heads, f"{kind}_head", None)) is not None:
            pooled = getattr(heads, f"{kind}_roi_pool")(features, regions, list(sizes))
            said |= flatten(getattr(heads, f"{kind}_predictor")(head(pooled)), kind)
    return said


def objects(outputs: Mapping[str, torch.Tensor], images: Sequence[str], categories: Sequence[str]) -> list[Reading]:
    """The likeliest objects of each image.

    Args:
        outputs: What `detect` returns.
        images: Name of each image.
        categories: Name of each class; where there are none, a class goes by its number.
    """
    readings = []
    for index, image in enumerate(images):
        boxes, labels, scores = (
            outputs[f"{VARIABLE}{index}.{name}"].tolist()[:_MOST_OBJECTS] for name in ("boxes", "labels", "scores")
        )
        found = [
            Found(
                label=f"{categories[label]} ({label})" if label < len(categories) else f"class {label}",
                score=round(score, _DIGITS),
                box=[round(side, _DIGITS) for side in box],
            )
            for box, label, score in zip(boxes, labels, scores, strict=True)
        ]
        readings.append(Reading(image=image, objects=found))
    return readings


def _on_canvas(image: Image.Image, side: int) -> torch.Tensor:
    """The upper left of an image on black, float32 of shape (3, side, side), 0 to 1."""
    canvas = Image.new("RGB", (side, side))
    canvas.paste(image.convert("RGB"))
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255


def _whole(material: Probe) -> Inputs:
    """Images as they are, on black squares of one size."""
    side = min(_LARGEST_CANVAS, max(max(image.size) for image in material.images.values()))
    images = torch.stack([_on_canvas(image, side) for image in material.images.values()])
    return Inputs(material.called("photos-to-search/1"), {"images": images}, {"images": tuple(material.images)})


def _clips(material: Probe) -> Inputs:
    """Photographs that wander to the left, of shape (clips, 3, frames, height, width)."""
    frames, side = _CLIP
    names = tuple(material.images)[:2]
    stills = [_on_canvas(material.images[name], side) for name in names]
    clips = [torch.stack([still.roll(-_SHIFT * i, dims=2) for i in range(frames)], dim=1) for still in stills]
    return Inputs(material.called("clips/1"), {"images": torch.stack(clips) * 2 - 1}, {"images": names})


def _pairs(material: Probe) -> Inputs:
    """Photographs and the same a little further to the left, each of shape (images, 3, height, width)."""
    names = tuple(material.images)
    first = torch.stack([_on_canvas(image, _FLOW_SIDE) for image in material.images.values()]) * 2 - 1
    then = first.roll(-_SHIFT, dims=3)
    return Inputs(material.called("pairs/1"), {"images": first, "later": then}, {"images": names, "later": names})


PREPARED: dict[str, Callable[[Probe], Inputs]] = {"detection": _whole, "video": _clips, "optical_flow": _pairs}
"""By torchvision's collections, how inputs are made where they are not photographs for a classifier."""

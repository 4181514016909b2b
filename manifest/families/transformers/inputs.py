"""What turns photographs into a transformers model's inputs: a `preprocessor_config.json`, or a plain resize.

Such a file lies beside most published models and is no part of any; read here are those settings of it that a record
of preprocessing has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from manifest.errors import InputError
from manifest.schema.document import Preprocess

USUAL_SIDE = 224
"""Pixels, where a config has no image size, as of a ResNet."""
_RESAMPLES = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations, those that open_clip has."""


def plain_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """Photographs squashed to a model's image size, with CLIP's mean and deviation; for probes, where none is known."""
    size = config.get("image_size") or USUAL_SIDE
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Preprocess(
        size=[int(height), int(width)],
        mean=list(OPENAI_DATASET_MEAN),
        std=list(OPENAI_DATASET_STD),
        interpolation="bicubic",
        resize_mode="squash",
    )


def recorded_preprocess(preprocessor: str | os.PathLike[str] | Mapping[str, Any]) -> Preprocess:
    """The preprocessing of a `preprocessor_config.json`.

    Args:
        preprocessor: The file, or its content.

    Raises:
        InputError: It cannot be read, or says something that no record of preprocessing can.
    """
    content = preprocessor if isinstance(preprocessor, Mapping) else _read(Path(preprocessor))
    try:
        return _record(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"The preprocessor config cannot be recorded ({type(error).__name__}: {error}), expected size, image_mean, "
            "image_std and a bilinear or bicubic resample; leave it out."
        ) from None


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}); correct the path.") from None


def _record(content: Mapping[str, Any]) -> Preprocess:
    cropped = bool(content.get("do_center_crop"))
    size = _size(content["crop_size"] if cropped else content["size"])
    if cropped and "shortest_edge" in content["size"] and content["size"]["shortest_edge"] != min(size):
        raise ValueError("a crop of another size than the resized image")
    if content.get("rescale_factor", 1 / 255) != 1 / 255:
        raise ValueError("a rescale_factor other than 1/255")
    return Preprocess(
        size=size,
        mean=[float(value) for value in content["image_mean"]],
        std=[float(value) for value in content["image_std"]],
        interpolation=_RESAMPLES[content["resample"]],
        resize_mode="shortest" if cropped else "squash",
    )


def _size(size: Any) -> list[int]:
    if isinstance(size, Mapping):
        return [int(size["height"]), int(size["width"])]
    return [int(size), int(size)]

"""Photographs prepared otherwise than recorded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from manifest.families.protocol import Variant
from manifest.probes.inputs import Inputs
from manifest.schema.document import Architecture, Preprocess

_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NORMALISATIONS = {
    "OpenAI's": _OPENAI,
    "ImageNet's": _IMAGENET,
    "0.5 and 0.5": _HALVES,
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest")
_RESIZE_MODES = ("shortest", "longest", "squash")
_SHARES = (1.0, 0.95, 0.9, 0.875)
"""Of the resized image, how much is kept; torchvision's and timm's usual ones."""


@dataclass(frozen=True)
class Steps:
    """How a photograph becomes a tensor, step by step, as any library does it.

    Attributes:
        size: (height, width) of what the model sees, in pixels.
        short_side: What the short side is resized to before the middle is cut out, in pixels; None where the image is
            squashed to `size`.
        interpolation: `bicubic`, `bilinear` or `nearest`.
        mean: Of each channel, taken away from pixels between 0 and 1.
        std: Of each channel.
        antialias: None where the image is resized by Pillow; else the tensor of it is resized, with or without
            antialiasing.
    """

    size: tuple[int, int]
    short_side: int | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    antialias: bool | None = None

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """A PIL image → float32 tensor of shape (3, height, width)."""
        from torchvision.transforms import functional  # what all families here prepare photographs with

        mode = functional.InterpolationMode(self.interpolation)
        target = list(self.size) if self.short_side is None else [self.short_side]
        image = image.convert("RGB")
        if self.antialias is None:
            pixels = functional.to_tensor(functional.resize(image, target, mode))
        else:
            pixels = functional.resize(functional.to_tensor(image), target, mode, antialias=self.antialias)
        prepared: torch.Tensor = functional.normalize(
            functional.center_crop(pixels, list(self.size)), self.mean, self.std
        )
        return prepared


def preprocessing(architecture: Architecture, record: Preprocess) -> Iterator[Variant]:
    """Each setting by itself, then what no record can say, then all the defaults of a library together.

    Args:
        architecture: Of the model; it need not have a preprocessing on record.
        record: How the photographs of its probe are prepared.
    """
    yield from _settings(architecture, record)
    yield from _pixels(record)
    yield from _cropped(record)
    yield from _defaults(record, on_record=architecture.preprocess is not None)


def _settings(architecture: Architecture, record: Preprocess) -> Iterator[Variant]:
    def other(what: str, here: str, there: str, **changed: Any) -> Variant:
        def code(values: Mapping[str, Any]) -> str:
            return f"force_preprocess_cfg={dict(values)!r}" if architecture.family == "open_clip" else _listed(values)

        before = {name: getattr(record, name) for name in changed}
        preprocess = record.model_copy(update=changed)
        return Variant(
            f"preprocessing: {what}",
            here,
            there,
            cure=code(changed),
            back=code(before),
            architecture=architecture.model_copy(update={"preprocess": preprocess}),
            concerns="images",
        )

    own = (tuple(record.mean), tuple(record.std))
    named = next((name for name, values in _NORMALISATIONS.items() if values == own), "its own")
    for name, (mean, std) in _NORMALISATIONS.items():
        if (mean, std) != own:
            yield other("mean and std", named, name, mean=list(mean), std=list(std))
    for name in _INTERPOLATIONS:
        if name != record.interpolation and (name, architecture.family) != ("nearest", "open_clip"):
            yield other("interpolation", record.interpolation, name, interpolation=name)
    for name in _RESIZE_MODES:
        if name != record.resize_mode and record.crop_mode is None:
            yield other("resize mode", record.resize_mode, name, resize_mode=name)
    side = record.size[0]
    now = _short_side(record)
    for share in _SHARES if now is not None else ():
        resized = round(side / share)
        here, there = f"short side resized to {now}, {side} kept", f"short side resized to {resized}, {side} kept"
        if resized == now:
            continue
        if record.crop_pct is not None:
            yield other("size", here, there, crop_pct=share)
        elif record.resize is not None:
            yield other("size", here, there, resize=[resized])
        elif (steps := _steps(record)) is not None:
            yield _resized(steps, resized, here, back=f"Resize({side}), CenterCrop({side})")


def _pixels(record: Preprocess) -> Iterator[Variant]:
    """What is done to pixels before or after they are normalised, and how a tensor of them is resized."""
    for what, here, there, cure, back, change in (
        ("channel order", "RGB", "BGR", "images[:, [2, 1, 0]]", "Image.open(path).convert('RGB')", _flipped),
        ("range", "pixels of 0 to 1", "pixels of 0 to 255", "pixels * 255", "pixels / 255", _in_bytes),
    ):
        yield Variant(
            f"preprocessing: {what}",
            here,
            there,
            cure,
            back,
            prepare=partial(_on_pixels, record=record, change=change),
            concerns="images",
        )
    yield Variant(
        "preprocessing: mean and std",
        here="normalised once",
        there="normalised twice",
        cure="Normalize(mean, std)(preprocess(image))",
        back="preprocess(image), without another Normalize",
        prepare=partial(_again, record=record),
        concerns="images",
    )
    steps = _steps(record)
    if steps is None or steps.interpolation == "nearest":
        return
    for antialias in (False, True):
        words = "with" if antialias else "without"
        yield Variant(
            "preprocessing: resize",
            here="the PIL image resized",
            there=f"a tensor resized {words} antialiasing",
            cure=f"ToTensor(), then Resize(…, antialias={antialias})",
            back="Resize(…) of the PIL image, then ToTensor()",
            preprocess=replace(steps, antialias=antialias),
            concerns="images",
        )


def _cropped(record: Preprocess) -> Iterator[Variant]:
    """The middle of a larger image, where whole images are squashed."""
    steps = _steps(record)
    if steps is None or steps.short_side is not None or steps.size[0] != steps.size[1]:
        return
    side = steps.size[0]
    for short_side in (round(side / share) for share in _SHARES[1:]):  # of the first, the resize mode says all
        yield _resized(steps, short_side, f"squashed to {side} × {side}", back=f"Resize(({side}, {side}))")


def _resized(steps: Steps, short_side: int, here: str, back: str) -> Variant:
    """The middle of an image whose short side is resized to this, in pixels."""
    side = steps.size[0]
    return Variant(
        "preprocessing: size",
        here,
        there=f"short side resized to {short_side}, {side} kept",
        cure=f"Resize({short_side}), CenterCrop({side})",
        back=back,
        preprocess=replace(steps, short_side=short_side),
        concerns="images",
    )


def _defaults(record: Preprocess, *, on_record: bool) -> Iterator[Variant]:
    """All that a library does to photographs when nobody tells it what this model wants."""
    height, width = record.size
    if height != width:
        return
    timms = math.floor(height / 0.875)
    for name, steps, code in (
        (
            "open_clip",
            Steps((height, width), height, "bicubic", *_OPENAI),
            "open_clip.image_transform_v2(PreprocessCfg())",
        ),
        ("timm", Steps((height, width), timms, "bicubic", *_IMAGENET), "timm.data.create_transform(input_size)"),
        (
            "torchvision",
            Steps((height, width), round(height / 0.875), "bilinear", *_IMAGENET),
            "torchvision.transforms._presets.ImageClassification(crop_size)",
        ),
        ("SigLIP", Steps((height, width), None, "bicubic", *_HALVES), "Resize((size, size)), Normalize(0.5, 0.5)"),
    ):
        if steps != _steps(record):
            yield Variant(
                "preprocessing: all of it",
                here="as recorded" if on_record else "the plain one of the probe",
                there=f"the defaults of {name}",
                cure=code,
                back="manifest.load_transforms(CKPT)"
                if on_record
                else "manifest.compare(model, CKPT), plainly prepared",
                preprocess=steps,
                concerns="images",
            )


def _steps(record: Preprocess) -> Steps | None:
    """A recorded preprocessing step by step, where it is of the usual ones."""
    short_side = _short_side(record)
    if record.mode != "RGB" or (short_side is None and record.resize_mode != "squash"):
        return None
    height, width = record.size
    return Steps((height, width), short_side, record.interpolation, tuple(record.mean), tuple(record.std))


def _short_side(record: Preprocess) -> int | None:
    """What the short side is resized to before a square is cut out; None where it is done otherwise."""
    height, width = record.size
    if height != width or record.resize_mode != "shortest" or record.crop_mode not in (None, "center"):
        return None
    if record.crop_pct is not None:
        return math.floor(height / record.crop_pct)
    return height if record.resize is None else record.resize[0] if len(record.resize) == 1 else None


def _flipped(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flip(1)


def _in_bytes(pixels: torch.Tensor) -> torch.Tensor:
    return pixels * 255


def _on_pixels(inputs: Inputs, record: Preprocess, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The inputs whose images were changed between being read and being normalised."""
    mean, std = _per_channel(record)
    return _with_images(inputs, (change(inputs.tensors["images"] * std + mean) - mean) / std)


def _again(inputs: Inputs, record: Preprocess) -> Inputs:
    """The inputs whose images were normalised once more."""
    mean, std = _per_channel(record)
    return _with_images(inputs, (inputs.tensors["images"] - mean) / std)


def _per_channel(record: Preprocess) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(values)[:, None, None] for values in (record.mean, record.std))
    return mean, std


def _with_images(inputs: Inputs, images: torch.Tensor) -> Inputs:
    return Inputs(inputs.probe, {**inputs.tensors, "images": images}, inputs.names)


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())

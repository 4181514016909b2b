"""A probe of the user's own: images and prompts that matter to them, which are asked and never recorded."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file

from manifest.errors import InputError
from manifest.probes.inputs import Probe, shipped
from manifest.storage.bounded_read import read_small

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
_MOST_IMAGES = 256
_MOST_PROMPTS = 1024
_LONGEST_NAME = 100


def as_probe(probe: Probe | str | os.PathLike[str]) -> Probe:
    """A probe, from a directory where it is not one already.

    A directory holds images, whose names are those of their files, a `prompts.txt` with a prompt a line, and
    `tensors.safetensors` for a model that takes neither; what it lacks is taken from what ships with this package.

    Raises:
        InputError: It is no such directory, or something in it cannot be read.
    """
    if isinstance(probe, Probe):
        return _complete(probe)
    folder = Path(probe)
    if not folder.is_dir():
        raise InputError(f"The probe {folder} is no directory, expected one with images or a prompts.txt; name it.")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if len(files) > _MOST_IMAGES:
        raise InputError(f"The probe {folder.name} has {len(files)} images, expected at most {_MOST_IMAGES}.")
    images = {file.stem: read_image(file) for file in files}
    prompts = _prompts(folder / "prompts.txt")
    tensors = folder / "tensors.safetensors"
    try:
        given = load_file(tensors) if tensors.exists() else {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{tensors.name} of the probe {folder.name} cannot be read ({error}).") from None
    if not (images or prompts or given):
        raise InputError(
            f"The probe {folder} holds no images, no prompts.txt and no tensors.safetensors; put something in."
        )
    return _complete(Probe(folder.resolve().name, images, prompts, given))


def _complete(probe: Probe) -> Probe:
    """A probe with what it lacks.

    Raises:
        InputError: It has no name, or asks nothing.
    """
    if not probe.name or len(probe.name) > _LONGEST_NAME or not probe.name.isprintable():
        raise InputError(
            f"The probe has no name, expected up to {_LONGEST_NAME} characters by which it is known again; name it."
        )
    if not (probe.images or probe.prompts or probe.tensors):
        raise InputError(f"The probe {probe.name} asks nothing, expected images, prompts or tensors; give it some.")
    standard = shipped()
    return replace(probe, images=probe.images or standard.images, prompts=probe.prompts or standard.prompts)


def read_image(path: Path) -> Image.Image:
    """An image of the user's own, RGB.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
        raise InputError(f"The image {path.name} cannot be read ({error}); mend it or take it out.") from None


def _prompts(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        lines = read_small(path, "list of prompts").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"The probe's {path.name} cannot be read ({error}); write it as UTF-8 text.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if len(prompts) > _MOST_PROMPTS:
        raise InputError(f"The probe has {len(prompts)} prompts, expected at most {_MOST_PROMPTS}.")
    return prompts

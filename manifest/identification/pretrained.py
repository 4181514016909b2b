"""Published weights: which there are, how images are prepared for them, whether they need QuickGELU, and their hashes.

Read off the registries of open_clip, timm and torchvision when the index was written. A hash is known where an address
has it: nine of OpenAI's in full, and eight digits of many others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from manifest.identification.index import document
from manifest.identification.index.layout import PRETRAINED

LIBRARIES = ("open_clip", "torchvision", "timm")
_FEWEST_DIGITS = 8
_DIGITS = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Pretrained:
    """Weights that a library knows by a tag.

    Attributes:
        library: `open_clip`, `timm` or `torchvision`.
        name: Of the architecture.
        tag: Of the weights.
        file: Name of the file at its address, empty where there is no address.
        hub: Repository on Hugging Face's hub, if there is one.
        sha256: The first digits of the file's SHA-256 that are known, or all.
        quick_gelu: Whether they need QuickGELU, None where the registry does not say.
        preprocess: `mean`, `std`, `interpolation` and `resize_mode`, as far as it says.
    """

    library: str
    name: str
    tag: str
    file: str
    hub: str
    sha256: str
    quick_gelu: bool | None
    preprocess: Mapping[str, Any]


@dataclass(frozen=True)
class KnownFile:
    """A published file.

    Attributes:
        library: `open_clip`, `timm` or `torchvision`.
        name: Of the architecture, the one with the activation that the weights need.
        tag: Of the weights.
        quick_gelu: Whether they need QuickGELU, None where the registry does not say.
        digits: How many digits of the file's SHA-256 agree; 0 where only its name does, which proves nothing.
    """

    library: str
    name: str
    tag: str
    quick_gelu: bool | None
    digits: int


def quick_gelu_tags(name: str) -> tuple[tuple[str, bool], ...]:
    """Tags of an architecture of open_clip, and whether each needs QuickGELU."""
    return tuple((each.tag, bool(each.quick_gelu)) for each in of_library("open_clip") if each.name == name)


def pretrained(name: str, tag: str, library: str | None = None) -> Pretrained | None:
    """The weights of an architecture by their tag, None when no library has them, or not the one that is named."""
    known = (each for each in _by_name().get(name, ()) if each.tag == tag)
    return next((each for each in known if library in (None, each.library)), None)


def split_timm_name(name: str) -> tuple[str, str]:
    """The architecture and the tag in a name as timm writes it, the tag empty where there is none."""
    architecture, _, tag = name.partition(".")
    return architecture, tag


def timm_activation(*, quick_gelu: bool) -> str:
    """The argument by which timm builds an architecture with QuickGELU, or without."""
    return f"act_layer={'quick_gelu' if quick_gelu else 'gelu'!r}"


def known_file(sha256: str, file_name: str = "") -> KnownFile | None:
    """Which published weights a file is, None when it is none that is known.

    Args:
        sha256: Of the file, in hexadecimal: all digits, or the first eight and more; empty where it is not known.
        file_name: By which it is told where no hash is.
    """
    digits = sha256.lower()
    if _DIGITS.fullmatch(digits):
        for each in _by_digits().get(digits[:_FEWEST_DIGITS], ()):
            agreeing = min(len(digits), len(each.sha256))
            if digits[:agreeing] == each.sha256[:agreeing]:
                return KnownFile(each.library, each.name, each.tag, each.quick_gelu, agreeing)
        if len(digits) == 64 and any(each.sha256 for each in _by_file().get(file_name, ())):
            return None  # a file of that name is published, and this is another
    found = next(iter(_by_file().get(file_name, ())), None) if file_name else None
    return None if found is None else KnownFile(found.library, found.name, found.tag, found.quick_gelu, 0)


@cache
def of_library(library: str) -> tuple[Pretrained, ...]:
    """All weights of a library; what has two names comes first under the one that is built with its activation."""
    return tuple(Pretrained(library, *row) for row in document(PRETRAINED.format(library)))


@cache
def _by_name() -> dict[str, list[Pretrained]]:
    return _grouped(lambda each: each.name)


@cache
def _by_digits() -> dict[str, list[Pretrained]]:
    return _grouped(lambda each: each.sha256[:_FEWEST_DIGITS])


@cache
def _by_file() -> dict[str, list[Pretrained]]:
    return _grouped(lambda each: each.file)


def _grouped(key: Callable[[Pretrained], str]) -> dict[str, list[Pretrained]]:
    groups: dict[str, list[Pretrained]] = {}
    for library in LIBRARIES:
        for each in of_library(library):
            if found := key(each):
                groups.setdefault(found, []).append(each)
    return groups

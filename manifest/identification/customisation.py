"""Arguments that build a registered architecture otherwise, told by the few names and shapes that they change.

A head for other classes, another image size or text length, another pooling, branches merged for inference: such a
file is whole, and no file of the architecture as it is registered. What is not explained to the last tensor is not
explained at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from manifest.weights.shape_diff import Shape, ShapeDiff

_HEADS = frozenset({"head", "vision_projection"})
_OF_DETECTORS = ("head.classification_head.", "head.regression_head.", "roi_heads.", "rpn.")
_ADDED = ("head", "head.fc", "fc", "classifier")
"""What timm calls the classifier of a model that is registered without one."""
_WITH_ARGUMENT = "token_mixer."
"""In the names of models of timm that an argument builds merged; of others, it has a function."""
_MERGED = re.compile(r"(.*)\.(?:reparam_conv|reparam|lk_conv_reparam)\.(?:weight|bias)")
"""What timm calls a convolution that several branches were merged into."""
_POOLED = {"norm": "fc_norm", "fc_norm": "norm"}
_POOLS = {"fc_norm": "avg", "norm": "token"}
_FEWEST_PREFIXES, _MOST_PREFIXES = 0, 2
"""Tokens of a position table that are no patches: of the class, of distillation."""
_STRIDE_OF_RESNET = 32


@dataclass(frozen=True)
class Customisation:
    """How an architecture was built otherwise than it is registered.

    Attributes:
        arguments: Of the library's builder.
        step: What was done to the model after it was built, as code; empty for nothing.
        renamed: Name that the registered architecture has → name that this one has instead.
        dropped: Names that it has not any more.
        rest: How the weights differ from it still.
    """

    arguments: Mapping[str, Any]
    step: str
    renamed: Mapping[str, str]
    dropped: frozenset[str]
    rest: ShapeDiff

    @property
    def whole(self) -> bool:
        """Whether it explains every tensor."""
        differs = self.rest.missing or self.rest.unexpected or self.rest.reshaped
        return bool(self.arguments or self.step) and not differs

    def words(self) -> str:
        """The arguments as Python takes them, and the step."""
        arguments = [f"{name}={value!r}" for name, value in self.arguments.items()]
        return ", ".join([*arguments, *([f"then `{self.step}`"] if self.step else [])])

    def remedy(self) -> str:
        """How to describe such weights, or why they cannot be."""
        if self.step:
            return f"they are those after `{self.step}`, which no argument does: describe the file from before that"
        options = " ".join(f"--argument {name}={value}" for name, value in self.arguments.items())
        return f"they are those of one built with {self.words()}: pass that (`{options}`)"


@dataclass
class _Misfit:
    """What is not explained yet, and what has been found."""

    expected: Mapping[str, Shape]
    found: Mapping[str, Shape]
    roles: Mapping[str, str]
    missing: set[str]
    unexpected: set[str]
    reshaped: dict[str, tuple[Shape, Shape]]
    arguments: dict[str, Any] = field(default_factory=dict)
    step: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)


def customisation(
    library: str, fit: ShapeDiff, expected: Mapping[str, Shape], found: Mapping[str, Shape], roles: Mapping[str, str]
) -> Customisation:
    """What arguments explain of the difference between an architecture and some weights.

    Args:
        library: `open_clip`, `timm` or `torchvision`; of others nothing is known.
        fit: How the weights differ from what the architecture expects.
        expected: Shape by the architecture's name.
        found: Shape of the weights by such a name.
        roles: Component role by the architecture's name.
    """
    misfit = _Misfit(expected, found, roles, {*fit.missing}, {*fit.unexpected}, dict(fit.reshaped))
    for rule in _RULES.get(library, ()):
        rule(misfit)
    rest = ShapeDiff(
        missing=tuple(name for name in fit.missing if name in misfit.missing),
        unexpected=tuple(name for name in fit.unexpected if name in misfit.unexpected),
        reshaped=misfit.reshaped,
    )
    return Customisation(misfit.arguments, misfit.step, misfit.renamed, frozenset(misfit.dropped), rest)


def _classes(misfit: _Misfit) -> None:
    """A head for another number of classes."""
    heads = {name: sides for name, sides in misfit.reshaped.items() if misfit.roles.get(name) in _HEADS}
    if any(name.startswith(_OF_DETECTORS) for name in heads):
        return  # there, a class has several outputs
    counts = {here[0] for here, _ in heads.values() if here}
    if len(counts) == 1 and all(here[1:] == there[1:] for here, there in heads.values()):
        misfit.arguments["num_classes"] = counts.pop()
        for name in heads:
            del misfit.reshaped[name]


def _no_head(misfit: _Misfit) -> None:
    """No head at all, as of a model that gives features."""
    heads = {name for name, role in misfit.roles.items() if role == "head"}
    if heads and heads <= misfit.missing and heads != set(misfit.roles):
        misfit.arguments["num_classes"] = 0
        misfit.missing -= heads
        misfit.dropped |= heads


def _added_head(misfit: _Misfit) -> None:
    """A classifier, of an architecture that is registered without one."""
    for head in _ADDED:
        weight, names = misfit.found.get(f"{head}.weight", ()), {f"{head}.weight", f"{head}.bias"}
        if names <= misfit.unexpected and "head" not in misfit.roles.values():
            misfit.arguments["num_classes"] = weight[0]
            misfit.unexpected -= names
            misfit.renamed |= {name: name for name in names}


def _pooling(misfit: _Misfit) -> None:
    """timm's norm before the head has another name where patches are averaged."""
    for before, after in _POOLED.items():
        names = {
            name: f"{after}{name.removeprefix(before)}" for name in misfit.missing if name.startswith(f"{before}.")
        }
        same = all(misfit.found.get(new) == misfit.expected.get(old) for old, new in names.items())
        if names and same and set(names.values()) <= misfit.unexpected:
            misfit.arguments["global_pool"] = _POOLS[after]
            misfit.missing -= names.keys()
            misfit.unexpected -= set(names.values())
            misfit.renamed |= names


def _merged_branches(misfit: _Misfit) -> None:
    """Branches of a convolution merged into one, for inference."""
    places = {match[1] for name in misfit.unexpected if (match := _MERGED.fullmatch(name))}
    if not places or not all(_MERGED.fullmatch(name) for name in misfit.unexpected):
        return
    gone = {name for name in misfit.missing if any(name.startswith(f"{place}.") for place in _above(name, places))}
    if gone and gone == misfit.missing:
        if any(_WITH_ARGUMENT in name for name in misfit.roles):
            misfit.arguments["inference_mode"] = True
        else:
            misfit.step = "timm.utils.reparameterize_model(model)"
        for name in misfit.unexpected:
            misfit.renamed[name] = name
        misfit.missing.clear()
        misfit.unexpected.clear()
        misfit.dropped |= gone


def _above(name: str, places: set[str]) -> Iterator[str]:
    """Those of some places that a name lies in."""
    while name:
        name = name.rpartition(".")[0]
        if name in places:
            yield name


def _positions_of_timm(misfit: _Misfit) -> None:
    _square(misfit, "pos_embed", "patch_embed.proj.weight", "img_size")


def _positions_of_torchvision(misfit: _Misfit) -> None:
    _square(misfit, "encoder.pos_embedding", "conv_proj.weight", "image_size")


def _positions_of_open_clip(misfit: _Misfit) -> None:
    for text in ("positional_embedding", "text.positional_embedding"):
        here, there = misfit.reshaped.get(text, ((), ()))
        if here and here[1:] == there[1:]:
            misfit.arguments["force_context_length"] = here[0]
            del misfit.reshaped[text]
    _square(misfit, "visual.positional_embedding", "visual.conv1.weight", "force_image_size")
    _square(misfit, "visual.trunk.pos_embed", "visual.trunk.patch_embed.proj.weight", "force_image_size")
    _square(misfit, "visual.attnpool.positional_embedding", None, "force_image_size")


def _square(misfit: _Misfit, table: str, patches: str | None, argument: str) -> None:
    """Another number of patches in a table of positions, as the side of the image in pixels."""
    if table not in misfit.reshaped:
        return
    here, there = misfit.reshaped[table]
    kernel = misfit.expected.get(patches or "", ())
    side = kernel[-1] if kernel else _STRIDE_OF_RESNET
    if len(here) != len(there) or here[-1] != there[-1]:
        return
    for prefix in range(_FEWEST_PREFIXES, _MOST_PREFIXES + 1):
        now, then = (shape[-2] - prefix for shape in (here, there))
        if now > 0 and isqrt(now) ** 2 == now and isqrt(then) ** 2 == then:
            misfit.arguments[argument] = isqrt(now) * side
            del misfit.reshaped[table]
            return


_FOREIGN = {
    "positional_embedding_res": "it is of a LongCLIP, whose own code adds a second table of positions, and no library "
    "here has such a model: load it by that code"
}


def foreign(unexpected: Iterable[str]) -> str | None:
    """Why weights with such a tensor are no library's, and what to do; None where nothing is known of them."""
    return next((_FOREIGN[last] for name in unexpected if (last := name.rpartition(".")[2]) in _FOREIGN), None)


_RULES = {
    "open_clip": (_positions_of_open_clip, _merged_branches),
    "timm": (_classes, _no_head, _added_head, _pooling, _positions_of_timm, _merged_branches),
    "torchvision": (_classes, _positions_of_torchvision),
}

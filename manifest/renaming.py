"""What weights may be called in a file, and what architectures call them: wrappers' prefixes, other projects' names.

Every renaming is a guess, told in words, to be held against the architectures that are known. There are few for any
file, and each looks at every name once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from manifest.dotted_names import without_numbers
from manifest.fitting import Shape
from manifest.index import is_optional

_DEEPEST = 8
"""Prefixes within one another."""
_MOST_GROUPS = 4
_LARGEST_SHARE, _SMALLEST_SHARE = 0.999, 0.1
_PARTS = ("visual.", "visual.trunk.", "text.")
"""Where open_clip keeps what is sometimes saved by itself."""
_INNER = re.compile(r"(?:(?<=\.)|^)(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""What FSDP, activation checkpointing and torch.compile put into names where they wrap a part of a model."""
_OF_OPENAI = frozenset({"input_resolution", "context_length", "vocab_size"})
_BIG_VISION = re.compile(r"^(?:params/)?(?:img|txt)/")


@dataclass(frozen=True)
class Renamed:
    """Weights by the names that an architecture may have for them.

    Attributes:
        shapes: Shape by such a name.
        stored: Name in the file by such a name.
        words: What was done, one clause each.
        part: Whether a model would be taken apart by that: what it fits is a part of another.
    """

    shapes: Mapping[str, Shape]
    stored: Mapping[str, str]
    words: tuple[str, ...] = ()
    part: bool = False

    @cached_property
    def optional(self) -> frozenset[str]:
        """Names of those without which weights are whole."""
        return frozenset(filter(is_optional, self.shapes))

    @cached_property
    def alike(self) -> Mapping[str, Sequence[str]]:
        """The names by their pattern, which has stars for numbers."""
        alike: dict[str, list[str]] = {}
        for name in self.shapes:
            alike.setdefault(without_numbers(name), []).append(name)
        return alike


def is_openai_archive(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the names of an archive as OpenAI released CLIP."""
    return shapes.keys() >= _OF_OPENAI


def is_big_vision(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are the names of big_vision, which is written in JAX."""
    return sum(_BIG_VISION.match(name) is not None for name in shapes) * 2 > len(shapes)


def renamings(shapes: Mapping[str, Shape]) -> Iterator[Renamed]:
    """Weights under other names, the least changed first."""
    names: dict[str, str] = {name: name for name in shapes}
    words: tuple[str, ...] = ()
    if is_openai_archive(shapes):
        names = {name: name for name in shapes if name not in _OF_OPENAI}
        words = (f"{', '.join(sorted(_OF_OPENAI))} of OpenAI's archive set aside",)
    yield _renamed(shapes, names, words)
    prefix, inside = "", False
    for _ in range(_DEEPEST):
        first = _common(names)
        if first is None:
            break
        prefix += first
        names = {_without(name, first): stored for name, stored in names.items()}
        if len(names) < len(shapes) - len(_OF_OPENAI):
            break  # two names have become one
        inside = inside or first in _PARTS
        yield _renamed(shapes, names, (*words, f'prefix "{prefix}" removed'), part=inside)
    if any(_INNER.search(name) for name in names):
        inner = {_INNER.sub("", name): stored for name, stored in names.items()}
        if len(inner) == len(names):
            above = (f'prefix "{prefix}" removed',) if prefix else ()
            yield _renamed(shapes, inner, (*words, *above, "wrappers within removed"))
    if (released := _mobileclip(shapes)) is not None:
        yield released
    yield from _groups(shapes, names, prefix, words)
    if prefix:
        words = (*words, f'prefix "{prefix}" removed')
    for part in _PARTS:
        if not any(name.startswith(part) for name in names):
            added = {f"{part}{name}": stored for name, stored in names.items()}
            yield _renamed(shapes, added, (*words, f'taken for the part "{part}" of a model'))


def _groups(
    shapes: Mapping[str, Shape], names: Mapping[str, str], above: str, words: tuple[str, ...]
) -> Iterator[Renamed]:
    """One of several models in a file, the others under the names that they have."""
    heads = Counter(name[: name.index(".") + 1] for name in names if "." in name)
    for head, count in heads.most_common(_MOST_GROUPS):
        if not _SMALLEST_SHARE <= count / len(names) <= _LARGEST_SHARE:
            continue
        within = {_without(name, head): stored for name, stored in names.items() if name.startswith(head)}
        others = {name: stored for name, stored in names.items() if not name.startswith(head) and name not in within}
        yield _renamed(shapes, within | others, (*words, f'prefix "{above}{head}" removed where it is'))


def _common(names: Mapping[str, str]) -> str | None:
    """The first part that every name has; counters of averages and the like need not have it."""
    found: str | None = None
    for name in names:
        first, dot, rest = name.partition(".")
        if not dot or not rest:
            if is_optional(name):
                continue
            return None
        if found is not None and first + dot != found:
            return None
        found = first + dot
    return found


def _without(name: str, prefix: str) -> str:
    return name.removeprefix(prefix)


def _renamed(
    shapes: Mapping[str, Shape], names: Mapping[str, str], words: tuple[str, ...], *, part: bool = False
) -> Renamed:
    return Renamed({name: shapes[stored] for name, stored in names.items()}, names, words, part)


_TEXT_OF_MOBILECLIP = (
    ("projection_layer", "text_projection"),
    ("embedding_layer", "token_embedding"),
    ("positional_embedding.pos_embed.pos_embed", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("pre_norm_mha.0", "ln_1"),
    ("pre_norm_mha.1", "attn"),
    ("pre_norm_ffn.0", "ln_2"),
    ("pre_norm_ffn.1", "mlp.c_fc"),
    ("pre_norm_ffn.4", "mlp.c_proj"),
    ("qkv_proj.weight", "in_proj_weight"),
    ("qkv_proj.bias", "in_proj_bias"),
    ("transformer.", "transformer.resblocks."),
)
"""In the order of `open_clip.convert.convert_mobile_clip_state_dict`."""
_IMAGE_OF_MOBILECLIP = (
    ("patch_embed", "stem"),
    ("rbr_conv", "conv_kxk"),
    ("rbr_scale", "conv_scale"),
    ("rbr_skip", "identity"),
    ("conv_exp", "final_conv"),
    ("lkb_origin", "large_conv"),
    ("convffn", "mlp"),
    ("se.reduce", "se.fc1"),
    ("se.expand", "se.fc2"),
)
"""In the order of `timm.models.fastvit.checkpoint_filter_fn`."""
_OF_MOBILECLIP = "image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight"
_NETWORK = re.compile(r"^network\.([0-9]{1,6})\b")
_STAGE_END = re.compile(r"^network\.([0-9]{1,6})\.proj\b")
_SCALED = re.compile(r"layer_scale_([0-9])")


def _mobileclip(shapes: Mapping[str, Shape]) -> Renamed | None:
    """MobileCLIP S1 and S2 as Apple released them, by the names that open_clip has for them."""
    if _OF_MOBILECLIP not in shapes:
        return None
    renamed: dict[str, Shape] = {}
    stored: dict[str, str] = {}
    images = {name: name.removeprefix("image_encoder.model.") for name in shapes if name.startswith("image_encoder.")}
    ends = sorted({int(found[1]) for name in images.values() if (found := _STAGE_END.match(name))})
    for name, shape in shapes.items():
        if name in images:
            new, shape = _image_of_mobileclip(images[name], shape, ends)
        elif name.startswith("text_encoder."):
            new = name.removeprefix("text_encoder.")
            for theirs, ours in _TEXT_OF_MOBILECLIP:
                new = new.replace(theirs, ours)
            new = f"text.{new}"
            if new == "text.positional_embedding":
                shape = tuple(side for side in shape if side != 1)
        else:
            new = name
        renamed[new], stored[new] = shape, name
    if (projection := renamed.get("visual.trunk.head.fc.weight")) is not None:
        # It has no bias in the release; open_clip's is zero.
        renamed.setdefault("visual.trunk.head.fc.bias", projection[:1])
    return Renamed(renamed, stored, ("names of MobileCLIP's own release",))


def _image_of_mobileclip(name: str, shape: Shape, ends: list[int]) -> tuple[str, Shape]:
    for theirs, ours in _IMAGE_OF_MOBILECLIP:
        name = name.replace(theirs, ours)
    name = _SCALED.sub(r"layer_scale_\1.gamma", name)
    if name.endswith("layer_scale"):
        name += ".gamma"
    if name == "head.proj":
        name, shape = "head.fc.weight", shape[::-1]
    elif (found := _NETWORK.match(name)) is not None:
        number, rest = int(found[1]), name[found.end() :]
        stage = f"stages.{sum(end <= number for end in ends)}"
        if rest.startswith(".proj"):
            name = f"{stage}.downsample.proj{rest.removeprefix('.proj')}"
        elif rest.startswith(".pe"):
            name = f"{stage}.pos_emb.pos_enc{rest.removeprefix('.pe')}"
        else:
            name = f"{stage}.blocks{rest}"
    return f"visual.trunk.{name}", shape

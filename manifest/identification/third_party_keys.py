"""Names that other projects' own releases have for weights of open_clip's models, and how those would be converted.

The tables are those of `open_clip.convert` 3.3 and `timm.models.fastvit`; what is told is names and shapes, since no
values are read. MobileCLIP S1 and S2 are Apple's files; big_vision's are Google's SigLIP, written in JAX.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

from manifest.weights.shape_diff import Shape

_MOST_LAYERS = 256


class Converted(NamedTuple):
    """Weights as open_clip would convert them.

    Attributes:
        shapes: Shape by its name.
        stored: Name in the file by its name; the first, where several become one.
        words: Whose names they were.
    """

    shapes: dict[str, Shape]
    stored: dict[str, str]
    words: tuple[str, ...]


def by_open_clip(shapes: Mapping[str, Shape]) -> Converted | None:
    """Weights of a release that open_clip converts, None when they are of none."""
    if _OF_MOBILECLIP in shapes:
        return _mobileclip(shapes)
    return _big_vision(shapes) if is_big_vision(shapes) else None


def is_big_vision(shapes: Mapping[str, Shape]) -> bool:
    """Whether these are mostly names of big_vision."""
    return sum(_BIG_VISION.match(name) is not None for name in shapes) * 2 > len(shapes)


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


def _mobileclip(shapes: Mapping[str, Shape]) -> Converted:
    """MobileCLIP S1 and S2 as Apple released them."""
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
    return Converted(renamed, stored, ("names of MobileCLIP's own release",))


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


_BIG_VISION = re.compile(r"(?:params/)?(?:img|txt)/")
_BLOCK = re.compile(r"encoderblock(?:_([0-9]{1,4}))?/")
_ATTENTION = "MultiHeadDotProductAttention_0"
_WITHIN_IMAGE = {
    "LayerNorm_0": ("norm1.", 1),
    "LayerNorm_1": ("norm2.", 1),
    **{f"{_ATTENTION}/{part}": ("attn.qkv.", 3) for part in ("query", "key", "value")},
    f"{_ATTENTION}/out": ("attn.proj.", 1),
    "MlpBlock_0/Dense_0": ("mlp.fc1.", 1),
    "MlpBlock_0/Dense_1": ("mlp.fc2.", 1),
}
"""A block's layers, with what open_clip calls them and how many of theirs are one of its."""
_WITHIN_TEXT = {
    "LayerNorm_0": ("ln_1.", 1),
    "LayerNorm_1": ("ln_2.", 1),
    **{f"{_ATTENTION}/{part}": ("attn.in_proj_", 3) for part in ("query", "key", "value")},
    f"{_ATTENTION}/out": ("attn.out_proj.", 1),
    "MlpBlock_0/Dense_0": ("mlp.c_fc.", 1),
    "MlpBlock_0/Dense_1": ("mlp.c_proj.", 1),
}
_BLOCKS = {
    "img/Transformer/": ("visual.trunk.blocks.", _WITHIN_IMAGE),
    "txt/Encoder_0/": ("text.transformer.resblocks.", _WITHIN_TEXT),
}
_POOL = "visual.trunk.attn_pool."
_LAYERS = {
    "img/embedding": ("visual.trunk.patch_embed.proj.", 1),
    "img/Transformer/encoder_norm": ("visual.trunk.norm.", 1),
    f"img/MAPHead_0/{_ATTENTION}/query": (f"{_POOL}q.", 1),
    f"img/MAPHead_0/{_ATTENTION}/key": (f"{_POOL}kv.", 2),
    f"img/MAPHead_0/{_ATTENTION}/value": (f"{_POOL}kv.", 2),
    f"img/MAPHead_0/{_ATTENTION}/out": (f"{_POOL}proj.", 1),
    "img/MAPHead_0/LayerNorm_0": (f"{_POOL}norm.", 1),
    "img/MAPHead_0/MlpBlock_0/Dense_0": (f"{_POOL}mlp.fc1.", 1),
    "img/MAPHead_0/MlpBlock_0/Dense_1": (f"{_POOL}mlp.fc2.", 1),
    "txt/Encoder_0/encoder_norm": ("text.ln_final.", 1),
    "txt/head": ("text.text_projection.", 1),
}
_ARRAYS = {
    "img/cls": "visual.trunk.cls_token",
    "img/pos_embedding": "visual.trunk.pos_embed",
    "img/MAPHead_0/probe": f"{_POOL}latent",
    "txt/Embed_0/embedding": "text.token_embedding.weight",
    "txt/pos_embedding": "text.positional_embedding",
    "t": "logit_scale",
    "b": "logit_bias",
}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def _big_vision(shapes: Mapping[str, Shape]) -> Converted:
    """SigLIP as Google released it; arrays of no known layer keep their names."""
    renamed: dict[str, Shape] = {}
    stored: dict[str, str] = {}
    for name, shape in shapes.items():
        for new, converted in _array_of_big_vision(name.removeprefix("params/"), shape) or ((name, shape),):
            renamed[new] = converted
            stored.setdefault(new, name)
    return Converted(renamed, stored, ("names of big_vision",))


def _array_of_big_vision(name: str, shape: Shape) -> list[tuple[str, Shape]]:
    if name in _ARRAYS:
        # A scalar has an axis there, and so has the one table of positions of texts.
        dropped = shape[1:] if name in {"t", "b", "txt/pos_embedding"} else shape
        return [(_ARRAYS[name], dropped)]
    for tower, (blocks, layers) in _BLOCKS.items():
        if name.startswith(tower) and (block := _BLOCK.match(name, len(tower))) is not None:
            # The layers of a scanned model are one array, with an axis for them.
            numbers = [block[1]] if block[1] else map(str, range(min(shape[0], _MOST_LAYERS) if shape else 0))
            each = list(_layer_of_big_vision(name[block.end() :], shape if block[1] else shape[1:], layers))
            return [(f"{blocks}{number}.{new}", converted) for number in numbers for new, converted in each]
    return list(_layer_of_big_vision(name, shape, _LAYERS))


def _layer_of_big_vision(name: str, shape: Shape, layers: Mapping[str, tuple[str, int]]) -> Iterator[tuple[str, Shape]]:
    layer, _, leaf = name.rpartition("/")
    if layer not in layers or leaf not in _LEAVES:
        return
    new, together = layers[layer]
    if leaf == "kernel":
        if len(shape) == 3 and layer.endswith("/out"):
            shape = (shape[2], shape[0] * shape[1])
        elif len(shape) == 3:
            shape = (shape[1] * shape[2], shape[0])
        else:
            shape = (*shape[:-3:-1], *shape[:-2])
    else:
        shape = (prod(shape),)
    yield f"{new}{_LEAVES[leaf]}", (together * shape[0], *shape[1:]) if shape else shape

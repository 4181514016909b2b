"""Names of other projects' releases are told, and turned into those of the library as it turns them itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.convert import convert_mobile_clip_state_dict, load_big_vision_weights
from open_clip.transformer import TextTransformer
from torch import nn

from manifest.identification.identify import identify
from manifest.identification.third_party_keys import by_open_clip

Of = Callable[[str, str], dict[str, tuple[int, ...]]]
_BACK = [
    ("head.fc.weight", "head.proj"),
    ("stem", "patch_embed"),
    ("conv_kxk", "rbr_conv"),
    ("conv_scale", "rbr_scale"),
    ("identity", "rbr_skip"),
    ("final_conv", "conv_exp"),
    ("large_conv", "lkb_origin"),
    ("mlp", "convffn"),
    ("se.fc1", "se.reduce"),
    ("se.fc2", "se.expand"),
    (".gamma", ""),
]
_TEXT_BACK = [
    ("text_projection", "projection_layer"),
    ("token_embedding", "embedding_layer"),
    ("positional_embedding", "positional_embedding.pos_embed.pos_embed"),
    ("ln_final", "final_layer_norm"),
    ("ln_1", "pre_norm_mha.0"),
    ("attn.in_proj_", "attn.qkv_proj."),
    ("attn.", "pre_norm_mha.1."),
    ("ln_2", "pre_norm_ffn.0"),
    ("mlp.c_fc", "pre_norm_ffn.1"),
    ("mlp.c_proj", "pre_norm_ffn.4"),
    ("transformer.resblocks.", "transformer."),
]
_STARTS = {"0": 0, "1": 2, "2": 4, "3": 7}
"""Where a stage's blocks are in the flat network of the release; before the last are its projection and positions."""


def as_released(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """A MobileCLIP S1 or S2 under the names of Apple's files."""
    released = {}
    for name, shape in shapes.items():
        if name.startswith("text."):
            name = name.removeprefix("text.")
            for ours, theirs in _TEXT_BACK:
                name = name.replace(ours, theirs)
            released[f"text_encoder.{name}"] = (1, 1, *shape) if "pos_embed" in name else shape
        elif name.startswith("visual.trunk.") and name != "visual.trunk.head.fc.bias":
            name = name.removeprefix("visual.trunk.")
            for ours, theirs in _BACK:
                name = name.replace(ours, theirs)
            name = re.sub(r"^stages\.(.)\.blocks", lambda found: f"network.{_STARTS[found[1]]}", name)
            name = re.sub(r"^stages\.(.)\.downsample", lambda found: f"network.{2 * int(found[1]) - 1}", name)
            name = name.replace("stages.3.pos_emb.pos_enc", "network.6.pe")
            released[f"image_encoder.model.{name}"] = shape[::-1] if name == "head.proj" else shape
        elif name == "logit_scale":
            released[name] = shape
    return released


@pytest.mark.parametrize("name", ["MobileCLIP-S1", "MobileCLIP-S2"])
def test_release_of_mobileclip_when_identified_then_it_is_the_model_of_open_clip(name: str, state: Of) -> None:
    found = identify(as_released(state("open_clip", name)))
    assert found.renaming == ("names of MobileCLIP's own release",)
    assert found.exact
    assert name in {candidate.name for candidate in found.candidates}


def test_release_of_mobileclip_when_renamed_then_it_is_as_open_clip_converts_it(state: Of) -> None:
    released = as_released(state("open_clip", "MobileCLIP-S1"))
    with torch.device("meta"):
        model = open_clip.create_model("MobileCLIP-S1", device="meta", load_weights=False)
        tensors = {name: torch.empty(shape) for name, shape in released.items()}
    converted = convert_mobile_clip_state_dict(model, tensors)
    (candidate,) = identify(released).candidates
    assert {name: tuple(tensor.shape) for name, tensor in converted.items()} == candidate.shapes
    # The bias of the projection is no tensor of the release.
    assert candidate.shapes.keys() - candidate.stored.keys() == {"visual.trunk.head.fc.bias"}


def as_released_by_google(shapes: dict[str, tuple[int, ...]], *, stacked: bool) -> dict[str, tuple[int, ...]]:
    """A SigLIP under the names, and with the axes, of big_vision."""
    head = 4  # widths are multiples of it
    released: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        leaf = "bias" if name.endswith("bias") else "kernel"
        block = re.match(
            r"(?:visual\.trunk\.blocks|text\.transformer\.resblocks)\.([0-9]+)\.(.*?)[._](?:weight|bias)$", name
        )
        if block is None:
            released |= _outside_blocks(name, shape, leaf, head)
            continue
        tower = "img/Transformer" if name.startswith("visual") else "txt/Encoder_0"
        place = f"{tower}/encoderblock" + ("" if stacked else f"_{block[1]}")
        for layer, axes in _within_block(block[2], shape, leaf, head).items():
            depth = 1 + max(int(n.split(".")[3]) for n in shapes if n.startswith(name[: block.start(1)]))
            released[f"{place}/{layer}"] = (depth, *axes) if stacked else axes
    return released


def _attention(part: str, width: int, leaf: str, head: int) -> dict[str, tuple[int, ...]]:
    axes = {"kernel": (width, head, width // head), "bias": (head, width // head)}
    if part == "out":
        axes = {"kernel": (head, width // head, width), "bias": (width,)}
    return {f"MultiHeadDotProductAttention_0/{part}/{leaf}": axes[leaf]}


def _within_block(layer: str, shape: tuple[int, ...], leaf: str, head: int) -> dict[str, tuple[int, ...]]:
    norms = {"norm1": "LayerNorm_0", "ln_1": "LayerNorm_0", "norm2": "LayerNorm_1", "ln_2": "LayerNorm_1"}
    dense = {"mlp.fc1": "Dense_0", "mlp.c_fc": "Dense_0", "mlp.fc2": "Dense_1", "mlp.c_proj": "Dense_1"}
    if layer in norms:
        return {f"{norms[layer]}/{'bias' if leaf == 'bias' else 'scale'}": shape}
    if layer in dense:
        return {f"MlpBlock_0/{dense[layer]}/{leaf}": shape[::-1]}
    if layer in {"attn.proj", "attn.out_proj"}:
        return _attention("out", shape[0], leaf, head)
    return {k: v for p in ("query", "key", "value") for k, v in _attention(p, shape[0] // 3, leaf, head).items()}


def _outside_blocks(name: str, shape: tuple[int, ...], leaf: str, head: int) -> dict[str, tuple[int, ...]]:
    pool = "visual.trunk.attn_pool."
    whole = {
        "visual.trunk.pos_embed": ("img/pos_embedding", shape),
        "visual.trunk.patch_embed.proj.weight": ("img/embedding/kernel", (*shape[2:], *shape[1::-1])),
        "visual.trunk.patch_embed.proj.bias": ("img/embedding/bias", shape),
        "visual.trunk.norm.weight": ("img/Transformer/encoder_norm/scale", shape),
        "visual.trunk.norm.bias": ("img/Transformer/encoder_norm/bias", shape),
        f"{pool}latent": ("img/MAPHead_0/probe", shape),
        f"{pool}norm.weight": ("img/MAPHead_0/LayerNorm_0/scale", shape),
        f"{pool}norm.bias": ("img/MAPHead_0/LayerNorm_0/bias", shape),
        f"{pool}mlp.fc1.{'weight' if leaf == 'kernel' else leaf}": (
            f"img/MAPHead_0/MlpBlock_0/Dense_0/{leaf}",
            shape[::-1],
        ),
        f"{pool}mlp.fc2.{'weight' if leaf == 'kernel' else leaf}": (
            f"img/MAPHead_0/MlpBlock_0/Dense_1/{leaf}",
            shape[::-1],
        ),
        "text.token_embedding.weight": ("txt/Embed_0/embedding", shape),
        "text.positional_embedding": ("txt/pos_embedding", (1, *shape)),
        "text.ln_final.weight": ("txt/Encoder_0/encoder_norm/scale", shape),
        "text.ln_final.bias": ("txt/Encoder_0/encoder_norm/bias", shape),
        "text.text_projection.weight": ("txt/head/kernel", shape[::-1]),
        "text.text_projection.bias": ("txt/head/bias", shape),
        "logit_scale": ("t", (1,)),
        "logit_bias": ("b", (1,)),
    }
    if name in whole:
        return dict([whole[name]])
    parts = {"q": ("query",), "kv": ("key", "value"), "proj": ("out",)}[name.removeprefix(pool).split(".")[0]]
    found = {k: v for part in parts for k, v in _attention(part, shape[0] // len(parts), leaf, head).items()}
    return {f"img/MAPHead_0/{layer}": axes for layer, axes in found.items()}


@pytest.mark.parametrize("stacked", [False, True], ids=["a block an array", "blocks in one array"])
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_release_of_siglip_when_identified_then_it_is_the_model_of_open_clip(
    prefix: str, stacked: bool, state: Of
) -> None:
    released = as_released_by_google(state("open_clip", "ViT-B-16-SigLIP"), stacked=stacked)
    found = identify({f"{prefix}{name}": shape for name, shape in released.items()})
    assert found.renaming == ("names of big_vision",)
    assert found.exact
    assert [candidate.name for candidate in found.candidates] == ["ViT-B-16-SigLIP"]
    assert found.candidates[0].stored["visual.trunk.pos_embed"] == f"{prefix}img/pos_embedding"


def test_release_of_siglip_when_open_clip_loads_it_then_each_renamed_array_is_read(tmp_path: Path) -> None:
    trunk = timm.models.vision_transformer.VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=4,
        class_token=False,
        global_pool="map",
        num_classes=0,
    )
    text = TextTransformer(
        context_length=5, vocab_size=11, width=12, heads=4, layers=2, output_dim=16, proj_bias=True, no_causal_mask=True
    )
    model = nn.ModuleDict({"text": text, "visual": nn.ModuleDict({"trunk": trunk})})
    for name in ("logit_scale", "logit_bias"):
        model.register_parameter(name, nn.Parameter(torch.ones([])))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    released = as_released_by_google(shapes, stacked=False)
    np.savez(tmp_path / "siglip.npz", **{name: np.full(shape, 7, np.float32) for name, shape in released.items()})
    model.visual, model.visual.trunk, model.text = model["visual"], trunk, text
    load_big_vision_weights(model, str(tmp_path / "siglip.npz"))
    assert all(bool((tensor == 7).all()) for tensor in model.state_dict().values())
    converted = by_open_clip(released)
    assert converted is not None
    assert converted.shapes == shapes


def test_scanned_layers_when_far_too_many_then_no_architecture_is_found() -> None:
    found = identify({"img/Transformer/encoderblock/LayerNorm_0/scale": (1 << 60, 768), "t": (1,)})
    assert found.candidates == ()

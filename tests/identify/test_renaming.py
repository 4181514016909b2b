"""Names of other projects' releases are told, and turned into those of the library as it turns them itself."""

from __future__ import annotations

import re
from collections.abc import Callable

import open_clip
import pytest
import torch
from open_clip.convert import convert_mobile_clip_state_dict

from manifest.identify import identify

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


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_arrays_of_big_vision_when_identified_then_it_is_said_whose_they_are(prefix: str) -> None:
    names = ["img/embedding/kernel", "img/pos_embedding", "txt/Embed_0/embedding", "txt/head/bias", "t", "b"]
    found = identify({f"{prefix}{name}": (1,) for name in names})
    assert found.renaming == ("names of big_vision",)
    assert found.candidates == ()
    assert "open_clip converts" in found.notes[0]

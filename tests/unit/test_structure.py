"""What a module is made of and what it runs, apart from its weights."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import torch
from open_clip.model import CLIP
from torch import nn

from manifest.families import Creation
from manifest.families.empty_build import without_weights
from manifest.families.open_clip import FAMILY
from manifest.structure import Trace, first_difference, structure, structure_digest, trace

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2},
}


def clip(**changes: Any) -> nn.Module:
    parts = {**CONFIG, **{k: {**CONFIG[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    with without_weights():
        return CLIP(**parts)


def test_structure_when_mode_or_weights_change_is_the_same() -> None:
    real = CLIP(**CONFIG)
    lines = structure(clip())
    assert structure(real.train()) == structure(real.eval()) == lines
    assert structure(real.half()) == lines


def test_structure_after_a_json_round_trip_of_the_config_is_the_same() -> None:
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "mlp_ratio": 4304 / 1152}}
    with without_weights():
        one, other = CLIP(**config), CLIP(**json.loads(json.dumps(config)))
    assert structure_digest(structure(one)) == structure_digest(structure(other))


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"quick_gelu": True}, "gelu"),
        ({"text_cfg": {"norm_kwargs": {"eps": 1e-6}}}, "ln_"),
        ({"vision_cfg": {"norm_kwargs": {"eps": 1e-6}}}, "visual.ln_pre"),
        ({"vision_cfg": {"head_width": 8}}, "attn"),
        ({"text_cfg": {"layers": 3}}, "transformer: Transformer("),
    ],
    ids=["activation", "text-eps", "vision-eps", "heads", "layers"],
)
def test_structure_when_something_that_changes_outputs_differs_tells_where(change: dict[str, Any], path: str) -> None:
    difference = first_difference(structure(clip()), structure(clip(**change)))
    assert difference is not None
    assert path in difference


def test_first_difference_of_an_activation_reads_as_path_this_and_that() -> None:
    difference = first_difference(structure(clip()), structure(clip(quick_gelu=True)))
    assert difference is not None
    path, _, words = difference.partition(": ")
    this, _, that = words.partition(" → ")
    assert path.endswith("mlp.gelu")
    assert (this.partition("(")[0], that.partition("(")[0]) == ("GELU", "QuickGELU")


def test_first_difference_of_equal_structures_is_none_and_of_a_longer_one_its_first_line() -> None:
    lines = structure(clip())
    assert first_difference(lines, lines) is None
    assert first_difference(lines, lines[:-1]) == f"{lines[-1]} (missing)"
    assert first_difference(lines[:-1], lines) == f"{lines[-1]} (added)"


@pytest.mark.parametrize(
    ("name", "operator", "other"),
    [
        ("ViT-B-32", "aten.gelu.default", "aten.sigmoid.default"),
        ("ViT-B-32-quickgelu", "aten.sigmoid.default", "aten.gelu.default"),
    ],
)
def test_operators_of_a_vit_have_one_activation_a_block(name: str, operator: str, other: str) -> None:
    counts = FAMILY.describe(Creation(name)).operators.counts
    assert counts[operator] == 24
    assert other not in counts


def test_trace_is_the_same_on_meta_and_on_real_weights_and_changes_nothing() -> None:
    real = CLIP(**CONFIG).train()
    before = {name: tensor.clone() for name, tensor in real.state_dict().items()}
    assert FAMILY.operators(real) == FAMILY.operators(clip())
    assert real.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in real.state_dict().items())


def test_trace_runs_in_eval_mode_so_that_dropout_leaves_no_operator() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    seen = trace(module, lambda ghost: ghost(torch.empty(1, 4, device="meta")))
    assert not any("dropout" in name or "bernoulli" in name for name in seen.operators)


def test_operators_in_another_order_have_the_same_counts_and_another_digest() -> None:
    one, other = Trace(("aten.mm.default", "aten.add.Tensor")), Trace(("aten.add.Tensor", "aten.mm.default"))
    assert one.record().counts == other.record().counts == dict(Counter(one.operators))
    assert one.record().digest != other.record().digest

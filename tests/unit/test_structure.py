"""What a module is made of and what it runs, apart from its weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch import nn
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from manifest.errors import ArchitectureError
from manifest.families.meta_build import without_weights
from manifest.families.open_clip.adapter import FAMILY
from manifest.families.protocol import Creation
from manifest.fingerprints.module_tree import Part, changes, grouped, outline, structure_digest, unfold
from manifest.fingerprints.structure import Trace, structure, trace_operators
from manifest.schema.document import ModuleRecord

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
        ({"text_cfg": {"layers": 3}}, "transformer: layers 2 → 3"),
    ],
    ids=["activation", "text-eps", "vision-eps", "heads", "layers"],
)
def test_structure_when_something_that_changes_outputs_differs_tells_where(change: dict[str, Any], path: str) -> None:
    assert path in grouped(changes(structure(clip()), structure(clip(**change))))


def test_changes_of_an_activation_read_as_path_this_and_that_with_like_ones_together() -> None:
    different = changes(structure(clip()), structure(clip(quick_gelu=True)))
    assert grouped([item for item in different if item.path.endswith("gelu")]) == (
        "visual.transformer.resblocks.{0..1}.mlp.gelu: GELU(approximate='none') → QuickGELU(); "
        "transformer.resblocks.{0..1}.mlp.gelu: GELU(approximate='none') → QuickGELU()"
    )


def test_changes_of_one_hyperparameter_name_it_alone() -> None:
    different = changes(structure(clip()), structure(clip(vision_cfg={"norm_kwargs": {"eps": 1e-6}})))
    assert grouped(different, limit=1).startswith("visual.ln_pre: eps 1e-05 → 1e-06")
    assert not any(item.is_of_vocabulary for item in different)


def test_changes_of_equal_trees_are_none_and_of_a_longer_one_its_last_module() -> None:
    parts = structure(clip())
    assert changes(parts, parts) == []
    assert str(changes(parts, parts[:-1])[0]) == f"{parts[-1]} (missing)"
    assert str(changes(parts[:-1], parts)[0]) == f"{parts[-1]} (added)"


def test_change_when_a_library_learned_a_hyperparameter_is_of_vocabulary() -> None:
    old, new = Part("a", "Norm", {"eps": "1"}), Part("a", "Norm", {"eps": "1", "bias": "True"})
    assert changes([old], [new])[0].is_of_vocabulary
    assert not changes([old], [Part("a", "Norm", {"eps": "2", "bias": "True"})])[0].is_of_vocabulary
    assert not changes([old], [])[0].is_of_vocabulary


def test_object_of_a_model_library_is_shown_with_attributes_and_another_is_not() -> None:
    one, other = nn.Identity(), nn.Identity()
    one.matcher, other.matcher = Matcher(0.5, 0.4), Matcher(0.5, 0.3)
    one.path, other.path = Path("a"), Path("b")
    assert str(changes(structure(one), structure(other))[0]) == (
        ".: matcher Matcher(BELOW_LOW_THRESHOLD=-1, BETWEEN_THRESHOLDS=-2, allow_low_quality_matches=False, "
        "high_threshold=0.5, low_threshold=0.4) → Matcher(BELOW_LOW_THRESHOLD=-1, BETWEEN_THRESHOLDS=-2, "
        "allow_low_quality_matches=False, high_threshold=0.5, low_threshold=0.3)"
    )


def test_means_of_images_are_structure_where_the_module_itself_applies_them() -> None:
    one, other = (GeneralizedRCNNTransform(8, 8, [mean] * 3, [1.0] * 3) for mean in (0.0, 0.5))
    assert changes(structure(one), structure(other))
    one, other = nn.Identity(), nn.Identity()
    one.image_mean, other.image_mean = 0.0, 0.5
    assert not changes(structure(one), structure(other))


def test_tuples_and_lists_are_told_apart() -> None:
    one, other = nn.Identity(), nn.Identity()
    one.sizes, other.sizes = (1, 2), [1, 2]
    assert str(changes(structure(one), structure(other))[0]) == ".: sizes (1, 2) → [1, 2]"


PATHS = st.lists(st.one_of(st.sampled_from(["a", "b", "{}", "1x"]), st.integers(0, 4).map(str)), min_size=1)


@given(paths=st.lists(PATHS.map(".".join), unique=True, min_size=1, max_size=30))
def test_folded_paths_stand_for_the_same_paths(paths: list[str]) -> None:
    parts = [Part(path, "Linear", {}) for path in paths]
    assert sorted(part.path for part in unfold(outline(parts))) == sorted(paths)


def test_outline_of_a_model_stands_for_all_of_its_modules_in_few_records() -> None:
    parts = structure(FAMILY.build(FAMILY.describe(Creation("ViT-B-32")).architecture))
    short = outline(parts)
    assert len(short) < len(parts) / 5
    assert {part.path: str(part) for part in unfold(short)} == {part.path: str(part) for part in parts}


def test_outline_that_stands_for_too_many_modules_is_refused() -> None:
    record = ModuleRecord.model_validate({"path": "a.{0..999999}.{0..999999}", "class": "Linear"})
    with pytest.raises(ArchitectureError, match="more than 200,000 modules"):
        unfold([record])


def test_trace_leaves_views_out_and_counts_forms_in_place_as_plain() -> None:
    def forward(ghost: nn.Module) -> None:
        ghost(torch.empty(1, 4, device="meta")).view(4).t().relu_()

    assert trace_operators(nn.Linear(4, 4), forward).operators == ("aten.addmm.default", "aten.relu.default")


def test_trace_marks_operators_that_draw_random_numbers() -> None:
    def forward(ghost: nn.Module) -> None:
        nn.functional.dropout(ghost(torch.empty(1, 4, device="meta")), 0.5, training=True)

    assert trace_operators(nn.Linear(4, 4), forward).record().random == ["aten.bernoulli.float"]


@pytest.mark.parametrize(
    ("name", "operator", "other"),
    [
        ("ViT-B-32", "aten.gelu.default", "aten.sigmoid.default"),
        ("ViT-B-32-quickgelu", "aten.sigmoid.default", "aten.gelu.default"),
    ],
)
def test_operators_of_a_vit_have_one_activation_a_block(name: str, operator: str, other: str) -> None:
    counts = FAMILY.describe(Creation(name)).architecture.operators.counts
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
    seen = trace_operators(module, lambda ghost: ghost(torch.empty(1, 4, device="meta")))
    assert not any("dropout" in name or "bernoulli" in name for name in seen.operators)


def test_operators_in_another_order_have_the_same_counts_and_another_digest() -> None:
    one, other = Trace(("aten.mm.default", "aten.add.Tensor")), Trace(("aten.add.Tensor", "aten.mm.default"))
    assert one.record().counts == other.record().counts == dict(Counter(one.operators))
    assert one.record().digest != other.record().digest

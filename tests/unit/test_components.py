"""Which parts of a checkpoint are there, and whether they were trained, told from the file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP
from safetensors.torch import save_file

from manifest.checkpoint import open_checkpoint
from manifest.checks.components import assess, component_findings, reassess
from manifest.families.open_clip.adapter import FAMILY
from manifest.families.protocol import Creation
from manifest.initialisation.untrained import untrained_throughout
from manifest.schema.document import Component
from manifest.schema.report import Severity
from manifest.schema.vocabulary import Status, Training, component_tensors, prefixes

State = dict[str, torch.Tensor]
Assess = Callable[..., dict[str, Component]]

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}


def clip(vision: dict[str, object] | None = None) -> State:
    torch.manual_seed(0)
    return CLIP(embed_dim=16, vision_cfg=vision or VIT, text_cfg=TEXT).state_dict()


def trained(state: State, *, but: tuple[str, ...] = ()) -> State:
    """As training leaves it: every value moved a little."""
    torch.manual_seed(1)
    return {
        name: tensor
        if name.startswith(but) or not tensor.is_floating_point()
        else tensor + 0.01 * torch.rand_like(tensor)
        for name, tensor in state.items()
    }


def is_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_scale"))


TEXT_NAMES = tuple(name for name in clip() if is_text(name))


@pytest.fixture
def assessed(tmp_path: Path) -> Assess:
    """The components of some weights, by role, against the architecture of `expected`."""

    def run(state: State, *, expected: State | None = None, by_design: tuple[str, ...] = ()) -> dict[str, Component]:
        path = tmp_path / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
        roles = FAMILY.roles(
            FAMILY.describe(Creation("ViT-B-32")).architecture, expected if expected is not None else clip()
        )
        with open_checkpoint(path) as stored:
            digests = {name: stored.digest(tensor) for name, tensor in stored.tensors.items()}
            return {part.role: part for part in assess(roles, stored, digests, by_design)}

    return run


def test_components_when_everything_is_there_and_trained_are_complete(assessed: Assess) -> None:
    found = assessed(trained(clip()))
    assert set(found) == {"vision_tower", "vision_projection", "text_tower", "text_projection", "logit_scale"}
    assert all(part.status is Status.COMPLETE and part.present == part.expected for part in found.values())
    assert {found[tower].training for tower in ("vision_tower", "text_tower")} == {Training.TRAINED}
    assert component_findings(list(found.values()), "x") == []


def test_component_when_one_tensor_is_missing_is_partial_and_names_it(assessed: Assess) -> None:
    state = trained(clip())
    del state["transformer.resblocks.1.mlp.c_fc.bias"]
    part = assessed(state)["text_tower"]
    assert (part.status, part.missing) == (Status.PARTIAL, ["transformer.resblocks.1.mlp.c_fc.bias"])
    assert [item.rule for item in component_findings([part], "x")] == ["C002"]


def test_component_when_all_tensors_are_missing_is_absent(assessed: Assess) -> None:
    found = assessed({name: tensor for name, tensor in trained(clip()).items() if not is_text(name)})
    assert (found["text_tower"].status, found["text_tower"].present) == (Status.ABSENT, 0)
    assert {item.where for item in component_findings(list(found.values()), "x")} == {"text_tower", "text_projection"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_tower_when_fresh_beside_a_trained_one_is_initialised_in_every_type(
    assessed: Assess, dtype: torch.dtype
) -> None:
    state = trained(clip(), but=TEXT_NAMES)
    found = assessed({name: tensor.to(dtype) for name, tensor in state.items()})
    assert found["text_tower"].training is Training.INITIALISED
    assert found["text_projection"].training is Training.INITIALISED  # it has no norms and shares its tower's lot
    assert found["vision_tower"].training is Training.TRAINED
    errors = component_findings(list(found.values()), "x")
    assert {(item.rule, item.where, item.severity) for item in errors} == {
        ("C003", "text_tower", Severity.ERROR),
        ("C003", "text_projection", Severity.ERROR),
    }


def test_tower_when_only_one_norm_is_pristine_is_trained(assessed: Assess) -> None:
    fresh = clip()
    one = ("transformer.resblocks.0.ln_1.",)
    assert assessed(trained(fresh, but=one))["text_tower"].training is Training.TRAINED


@pytest.mark.parametrize(("moved", "training"), [(1e-6, Training.BARELY), (0.5, Training.TRAINED)])
def test_tower_when_only_one_norm_was_moved_is_not_untouched(
    assessed: Assess, moved: float, training: Training
) -> None:
    state = clip()
    state["ln_final.weight"] = state["ln_final.weight"].clone()
    state["ln_final.weight"][5] += moved
    assert assessed(state)["text_tower"].training is training


def test_model_when_fresh_throughout_is_a_note_and_no_error(assessed: Assess) -> None:
    found = list(assessed(clip()).values())
    assert untrained_throughout(part.training for part in found)
    assert [(item.rule, item.severity) for item in component_findings(found, "x")] == [("C003", Severity.NOTE)]


def test_fresh_resnet_whose_last_norms_begin_at_zero_is_initialised(assessed: Assess) -> None:
    fresh = clip(RESNET)
    assert (fresh["visual.layer1.0.bn3.weight"] == 0).all()
    found = assessed(trained(fresh, but=("visual.",)), expected=fresh)
    assert found["vision_tower"].training is Training.INITIALISED
    assert found["text_tower"].training is Training.TRAINED


def test_component_when_declared_by_design_is_not_complained_about(assessed: Assess) -> None:
    state = trained(clip(), but=TEXT_NAMES)
    found = assessed(state, by_design=("text_tower", "text_projection"))
    assert found["text_tower"].by_design
    assert component_findings(list(found.values()), "x") == []


def test_reassessed_components_when_the_file_is_unchanged_are_the_recorded_ones(
    assessed: Assess, tmp_path: Path
) -> None:
    state = trained(clip(), but=TEXT_NAMES)
    recorded = list(assessed(state).values())
    with open_checkpoint(tmp_path / "weights.safetensors") as stored:
        assert reassess(recorded, list(state), stored) == recorded


SEGMENTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)
ROLES = st.dictionaries(SEGMENTS, st.sampled_from(["vision", "text", "scale"]), min_size=1, max_size=12)


@given(roles=ROLES)
def test_prefixes_cover_their_component_and_no_other(roles: dict[str, str]) -> None:
    for role in set(roles.values()):
        names = [name for name in roles if roles[name] == role]
        assert component_tensors(prefixes(names, roles.keys() - set(names)), roles) == names


@given(roles=ROLES)
def test_prefixes_are_the_fewest(roles: dict[str, str]) -> None:
    for role in set(roles.values()):
        names = [name for name in roles if roles[name] == role]
        found = prefixes(names, roles.keys() - set(names))
        for left_out in found:
            rest = [prefix for prefix in found if prefix != left_out]
            assert component_tensors(rest, names) != names
        for prefix in found:  # none could be replaced by a wider one
            above = prefix.rstrip(".").rpartition(".")[0]
            assert not above or component_tensors([f"{above}."], roles) != component_tensors([f"{above}."], names)

"""Half-trained models, where the half that never was is named: the trained digits CLIP, ViT-B-16, AlexNet.

A narrow ViT-B-16 stands for the real one, which `--whole` takes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from manifest.checkpoint import open_checkpoint
from manifest.families.open_clip.adapter import FAMILY
from manifest.initialisation.verdict import Anomaly, Evidence, anomalies_of, evidence
from manifest.schema.vocabulary import Training

State = Mapping[str, torch.Tensor]
Told = Callable[..., tuple[dict[str, Evidence], list[Anomaly]]]
TRAINED, INITIALISED, UNKNOWN = Training.TRAINED, Training.INITIALISED, Training.UNKNOWN


def is_vision(name: str) -> bool:
    return name.startswith("visual.")


def is_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_scale"))


def is_late_text(name: str) -> bool:
    return any(name.startswith(f"transformer.resblocks.{index}.") for index in range(6, 12))


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """The evidence on each component of some weights, and what is odd about them."""

    def read(state: State, roles: Mapping[str, str] | None = None) -> tuple[dict[str, Evidence], list[Anomaly]]:
        path = tmp_path / "weights.safetensors"
        save_file({name: value.contiguous() for name, value in state.items()}, path)
        with open_checkpoint(path) as checkpoint:
            found = evidence(roles or FAMILY.roles(None, list(state)), checkpoint), anomalies_of(checkpoint)  # type: ignore[arg-type]
        path.unlink()
        return found

    return read


NARROW = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 192, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 12},
}


@pytest.fixture(scope="module", params=["narrow", pytest.param("real", marks=pytest.mark.whole)])
def vit_b_16(request: pytest.FixtureRequest) -> Callable[[], nn.Module]:
    """Makes one, as open_clip initialises it."""
    if request.param == "real":
        return lambda: open_clip.create_model("ViT-B-16")
    return lambda: open_clip.model.CLIP(**NARROW)


@pytest.fixture(scope="module")
def fresh(vit_b_16: Callable[[], nn.Module]) -> State:
    torch.manual_seed(0)
    return vit_b_16().state_dict()


@pytest.fixture(scope="module")
def trained(vit_b_16: Callable[[], nn.Module]) -> State:
    """ViT-B-16 after three steps, from gradients of the contrastive loss on a random image and random tokens."""
    torch.manual_seed(1)
    model = vit_b_16().train()
    steps = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(3):
        images, texts, scale = model(torch.randn(1, 3, 224, 224), torch.randint(1, 49_000, (2, 77)))
        steps.zero_grad()
        nn.functional.cross_entropy(scale * images @ texts.T, torch.zeros(1, dtype=torch.long)).backward()
        steps.step()
    return model.state_dict()


def mixed(trained: State, fresh: State, is_fresh: Callable[[str], bool]) -> State:
    return {name: fresh[name] if is_fresh(name) else value for name, value in trained.items()}


def verdicts(found: tuple[dict[str, Evidence], list[Anomaly]]) -> dict[str, Training]:
    return {role: verdict.training for role, verdict in found[0].items()}


def fresh_layers(found: tuple[dict[str, Evidence], list[Anomaly]]) -> list[Anomaly]:
    return [odd for odd in found[1] if odd.kind == "fresh-layers"]


def test_vit_b_16_after_three_large_steps_is_trained(told: Told, trained: State) -> None:
    found = told(trained)
    assert verdicts(found) == {
        "vision_tower": TRAINED, "text_tower": TRAINED, "logit_scale": TRAINED,
        "vision_projection": UNKNOWN, "text_projection": UNKNOWN,
    }  # fmt: skip
    text = found[0]["text_tower"]
    assert (text.norms, text.pristine_norms, text.matrices) == (25, 0, 50)
    assert found[1] == []


def test_vit_b_16_with_a_fresh_text_tower_is_told_by_half(told: Told, trained: State, fresh: State) -> None:
    found = told(mixed(trained, fresh, is_text))
    assert verdicts(found) == {
        "vision_tower": TRAINED, "text_tower": INITIALISED, "text_projection": INITIALISED,
        "vision_projection": UNKNOWN, "logit_scale": TRAINED,
    }  # fmt: skip
    assert found[0]["text_tower"].reasons == (
        "25 of 25 norms are exactly as initialised",
        "50 of 50 matrices have their initialiser's distribution (p > 1e-6 each)",
    )
    assert found[0]["text_projection"].reasons[-1] == "its tower was never trained"


def test_vit_b_16_with_a_fresh_vision_tower_is_told_by_half(told: Told, trained: State, fresh: State) -> None:
    assert verdicts(told(mixed(trained, fresh, is_vision))) == {
        "vision_tower": INITIALISED, "vision_projection": INITIALISED, "text_tower": TRAINED,
        "text_projection": UNKNOWN, "logit_scale": TRAINED,
    }  # fmt: skip


def test_vit_b_16_with_half_of_its_text_tower_fresh_is_trained_and_the_half_is_named(
    told: Told, trained: State, fresh: State
) -> None:
    found = told(mixed(trained, fresh, is_late_text))
    text = found[0]["text_tower"]
    assert (text.training, text.pristine_norms) == (TRAINED, 12)
    assert text.reasons[-1] == "transformer.resblocks.{6..11} are as initialised, and others like them are not"
    assert [odd.names for odd in fresh_layers(found)] == [tuple(f"transformer.resblocks.{i}" for i in range(6, 12))]
    assert fresh_layers(found)[0].message == (
        "transformer.resblocks.{6..11} are as an initialiser leaves them, and others like them were trained."
    )


def test_vit_b_16_in_bfloat16_with_a_fresh_text_tower_is_told_by_half(told: Told, trained: State, fresh: State) -> None:
    state = {name: value.bfloat16() for name, value in mixed(trained, fresh, is_text).items()}
    found = verdicts(told(state))
    assert (found["text_tower"], found["vision_tower"]) == (INITIALISED, TRAINED)


def test_vit_b_16_with_a_fresh_projection_alone_is_no_proof(told: Told, trained: State, fresh: State) -> None:
    found = told(mixed(trained, fresh, lambda name: name == "visual.proj"))
    assert found[0]["vision_projection"].training is UNKNOWN
    assert found[0]["vision_projection"].reasons[-1] == "it looks like its initialiser's; a single matrix is no proof"


def test_vit_b_16_with_one_norm_reset_is_trained_and_nothing_is_odd(told: Told, trained: State, fresh: State) -> None:
    found = told(mixed(trained, fresh, lambda name: name.startswith("transformer.resblocks.3.ln_1.")))
    assert found[0]["text_tower"].training is TRAINED
    assert found[1] == []


def test_digits_clip_is_trained_though_half_of_its_matrices_look_fresh(told: Told, digits: Any) -> None:
    found = told(load_file(digits.WEIGHTS))
    assert {verdicts(found)[role] for role in ("vision_tower", "text_tower", "logit_scale")} == {TRAINED}
    fitting, matrices = (sum(getattr(v, count) for v in found[0].values()) for count in ("fresh_matrices", "matrices"))
    print(f"\n{fitting} of {matrices} matrices of the trained digits CLIP still fit their initialiser")
    assert INITIALISED not in verdicts(found).values()
    assert fresh_layers(found) == []


def test_digits_clip_as_if_trained_with_its_norms_held_is_not_called_initialised(told: Told, digits: Any) -> None:
    torch.manual_seed(0)
    fresh = open_clip.create_model(digits.MODEL).state_dict()
    state = mixed(load_file(digits.WEIGHTS), fresh, lambda name: ".ln_" in name or name.startswith("ln_"))
    found = told(state)
    assert [(v.norms, v.pristine_norms) for role, v in found[0].items() if role == "text_tower"] == [(5, 5)]
    assert INITIALISED not in verdicts(found).values()
    assert fresh_layers(found) == []


@pytest.mark.parametrize(("is_half", "tower"), [(is_text, "text_tower"), (is_vision, "vision_tower")])
def test_digits_clip_with_a_fresh_half_is_told_by_half(
    told: Told, digits: Any, is_half: Callable[[str], bool], tower: str
) -> None:
    torch.manual_seed(0)
    fresh = open_clip.create_model(digits.MODEL).state_dict()
    found = verdicts(told(mixed(load_file(digits.WEIGHTS), fresh, is_half)))
    fresh_half = {tower, tower.replace("tower", "projection")}
    assert {role for role, training in found.items() if training is INITIALISED} == fresh_half
    assert found["text_tower" if tower == "vision_tower" else "vision_tower"] is TRAINED


def test_resnet_with_a_fresh_last_stage_is_trained_and_the_stage_is_named(told: Told) -> None:
    torch.manual_seed(0)
    fresh = torchvision.models.resnet18(num_classes=10).state_dict()
    model = torchvision.models.resnet18(num_classes=10)
    one_step(model, torch.randn(2, 3, 64, 64), rate=0.1)
    state = mixed(model.state_dict(), fresh, lambda name: name.startswith("layer4."))
    found = told(state, dict.fromkeys(state, "backbone"))
    assert found[0]["backbone"].training is TRAINED
    assert [odd.names for odd in fresh_layers(found)] == [("layer4",)]


def test_batch_norms_that_saw_batches_and_no_step_are_initialised_and_it_is_said(told: Told) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10).train()
    model(torch.randn(2, 3, 64, 64))
    found, _ = told(model.state_dict(), dict.fromkeys(model.state_dict(), "backbone"))
    assert found["backbone"].training is INITIALISED
    assert found["backbone"].reasons[-1] == "batches went through it, and no step was taken"


@pytest.mark.parametrize("rate", [0.0, 1e-5])
def test_alexnet_without_norms_is_initialised_only_where_its_draws_are_exact(told: Told, rate: float) -> None:
    torch.manual_seed(0)
    model = torchvision.models.alexnet(num_classes=10)
    if rate:
        one_step(model, torch.randn(2, 3, 64, 64), rate)
    found, _ = told(model.state_dict(), dict.fromkeys(model.state_dict(), "backbone"))
    assert found["backbone"].norms == 0
    assert found["backbone"].fresh_matrices == found["backbone"].matrices == 8
    assert found["backbone"].training is (UNKNOWN if rate else INITIALISED)


def test_vgg_without_norms_is_initialised_by_zero_biases(told: Told) -> None:
    torch.manual_seed(0)
    fresh = torchvision.models.vgg11(num_classes=10).features.state_dict()
    assert told(fresh, dict.fromkeys(fresh, "backbone"))[0]["backbone"].training is INITIALISED
    moved = {name: value + 1e-6 if name.endswith("bias") else value for name, value in fresh.items()}
    moved = {name: value + 1e-9 * torch.randn_like(value) for name, value in moved.items()}
    assert told(moved, dict.fromkeys(moved, "backbone"))[0]["backbone"].training is UNKNOWN


def test_matrices_that_no_initialiser_draws_are_trained(told: Told) -> None:
    torch.manual_seed(0)
    spiky = {f"{index}.weight": torch.randn(64, 64) ** 3 for index in range(3)}
    assert told(spiky, dict.fromkeys(spiky, "head"))[0]["head"].training is TRAINED


@pytest.mark.parametrize(
    ("value", "training"), [(2.6592600, UNKNOWN), (2.3025851, UNKNOWN), (4.6051702, TRAINED), (3.7214, TRAINED)]
)
def test_logit_scale_by_itself_is_trained_only_where_it_moved(told: Told, value: float, training: Training) -> None:
    found, _ = told({"logit_scale": torch.tensor(value)}, {"logit_scale": "logit_scale"})
    assert found["logit_scale"].training is training


def one_step(model: nn.Module, images: torch.Tensor, rate: float) -> None:
    model.train()
    nn.functional.cross_entropy(model(images), torch.zeros(len(images), dtype=torch.long)).backward()
    torch.optim.SGD(model.parameters(), lr=rate).step()

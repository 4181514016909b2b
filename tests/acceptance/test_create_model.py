"""`create_model` asks the weights before it builds, and remembers how it built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch

import manifest
from manifest.errors import CreationMismatchError, InputError, UnknownModelError


def test_arguments_are_remembered_and_recorded(digits: Any, tmp_path: Path) -> None:
    del digits
    model = manifest.create_model("digits-clip", None, force_patch_dropout=0.25, precision="fp32")
    architecture = manifest.save(model, tmp_path / "x.pt", golden=False).architecture
    assert architecture.arguments == {"force_patch_dropout": 0.25}
    assert architecture.config["vision_cfg"]["patch_dropout"] == 0.25
    assert manifest.load(tmp_path / "x.pt", verify="none").visual.patch_dropout.prob == 0.25


def test_path_with_a_manifest_that_agrees_is_loaded_and_becomes_the_parent(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    recorded = manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    model: Any = manifest.create_model(digits.MODEL, pretrained=str(tmp_path / "x.pt"))
    saved = manifest.save(model, tmp_path / "y.pt", golden=False)
    assert torch.equal(model.visual.proj, digits_model.visual.proj)
    assert saved.provenance.pretrained == "x.pt"
    assert [parent.weights for parent in saved.provenance.parents] == [recorded.weights.digest]


def test_path_without_a_manifest_says_once_that_nothing_was_compared(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    torch.save(digits_model.state_dict(), tmp_path / "x.pt")
    with pytest.warns(UserWarning, match=r"x\.pt has no manifest") as caught:
        manifest.create_model(digits.MODEL, pretrained=str(tmp_path / "x.pt"))
    assert len([item for item in caught if "no manifest" in str(item.message)]) == 1


def test_other_context_length_is_refused_with_its_cure(digits: Any, tmp_path: Path) -> None:
    del digits
    model = manifest.create_model("digits-clip", force_context_length=12)
    manifest.save(model, tmp_path / "x.pt", golden=False)
    with pytest.raises(CreationMismatchError, match=r"context_length would be 8.*force_context_length=12"):
        manifest.create_model("digits-clip", pretrained=str(tmp_path / "x.pt"))


def test_other_preprocessing_is_refused_with_its_cure(digits: Any, tmp_path: Path) -> None:
    del digits
    model, _, _ = manifest.create_model_and_transforms("digits-clip", image_interpolation="bilinear")
    manifest.save(model, tmp_path / "x.pt", golden=False)
    with pytest.raises(CreationMismatchError, match=r"A006.*force_preprocess_cfg=\{'interpolation': 'bilinear'\}"):
        manifest.create_model("digits-clip", pretrained=str(tmp_path / "x.pt"))


def test_transforms_are_those_that_open_clip_gives(digits: Any) -> None:
    _, train, val = manifest.create_model_and_transforms(digits.MODEL)
    _, library_train, library_val = open_clip.create_model_and_transforms(digits.MODEL)
    assert (repr(train), repr(val)) == (repr(library_train), repr(library_val))


@pytest.mark.parametrize(
    ("name", "tag", "cure"),
    [("ViT-B-32", "openai", "force_quick_gelu=True"), ("ViT-H-14", "metaclip_fullcc", "force_quick_gelu=True")],
)
def test_tag_trained_with_another_activation_is_refused_before_fetching(name: str, tag: str, cure: str) -> None:
    with pytest.raises(CreationMismatchError, match=cure):
        manifest.create_model(name, tag)


def test_flag_that_the_tag_was_not_trained_with_is_refused() -> None:
    with pytest.raises(CreationMismatchError, match="trained with GELU"):
        manifest.create_model("ViT-B-32", "laion2b_s34b_b79k", force_quick_gelu=True)


def test_unknown_name_gets_the_nearest_ones(tmp_path: Path, digits_model: Any) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    with pytest.raises(UnknownModelError, match="did you mean ViT-B-32"):
        manifest.create_model("ViT-B-23", pretrained=str(tmp_path / "x.pt"))


def test_mismatch_policy_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="expected 'raise' or 'follow'"):
        manifest.create_model("ViT-B-32", on_mismatch="ignore")  # type: ignore[arg-type]


def test_interpolated_position_embedding_is_refused_until_asked_for_then_recorded(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    weights = str(tmp_path / "x.pt")
    torch.save(digits_model.state_dict(), weights)
    sizes: dict[str, Any] = {"force_image_size": 16, "force_context_length": 12}
    words = r"positional_embedding \[8, 64\] → \[12, 64\]; visual\.positional_embedding \[17, 64\] → \[5, 64\]"
    with pytest.raises(CreationMismatchError, match=rf"{words}\); allow it with convert=\['position_embedding'\]"):
        manifest.create_model(digits.MODEL, weights, **sizes)
    model: Any = manifest.create_model(digits.MODEL, weights, convert=["position_embedding"], **sizes)
    expected: Any = open_clip.create_model(digits.MODEL, weights, **sizes)
    assert torch.equal(model.visual.positional_embedding, expected.visual.positional_embedding)
    recorded = manifest.save(model, tmp_path / "y.pt", golden=False).provenance.conversions
    assert recorded == [
        "position_embedding: positional_embedding [8, 64] → [12, 64]",
        "position_embedding: visual.positional_embedding [17, 64] → [5, 64]",
    ]


def test_position_embedding_of_described_weights_is_interpolated_when_asked_for(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    model: Any = manifest.create_model(
        digits.MODEL, str(tmp_path / "x.pt"), force_image_size=16, convert=["position_embedding"]
    )
    assert model.visual.positional_embedding.shape == (5, 64)


def test_missing_logit_bias_is_refused_until_asked_for(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    weights = str(tmp_path / "x.pt")
    torch.save(digits_model.state_dict(), weights)
    with pytest.raises(CreationMismatchError, match=r"logit_bias, which the weights lack, set to zero"):
        manifest.create_model(digits.MODEL, weights, init_logit_bias=-10.0)
    model: Any = manifest.create_model(digits.MODEL, weights, init_logit_bias=-10.0, convert=["logit_bias"])
    assert model.logit_bias.item() == 0


def test_misfit_that_no_library_converts_is_left_to_open_clip(digits: Any, digits_model: Any, tmp_path: Path) -> None:
    state = digits_model.state_dict()
    del state["visual.proj"]
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"visual.proj\""):
        manifest.create_model(digits.MODEL, str(tmp_path / "x.pt"))


def timm_weights(place: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224", num_classes=5, **changes).state_dict()
    torch.save(state, place / "x.pth")
    return place / "x.pth"


def test_timm_head_begun_anew_is_refused_until_asked_for_and_then_recorded(tmp_path: Path) -> None:
    overlay = {"file": str(timm_weights(tmp_path)), "num_classes": 5}
    arguments: dict[str, Any] = {"family": "timm", "pretrained": True, "pretrained_cfg_overlay": overlay}
    with pytest.raises(
        CreationMismatchError, match=r"head\.weight \[5, 192\] → \[3, 192\], initialised anew.*\['head'\]"
    ):
        manifest.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    model = manifest.create_model("vit_tiny_patch16_224", num_classes=3, convert=["head"], **arguments)
    recorded = manifest.save(model, tmp_path / "y.pt", golden=False).provenance
    assert recorded.pretrained == "x.pth"
    assert recorded.conversions[0] == "head: head.weight [5, 192] → [3, 192], initialised anew"
    assert str(tmp_path) not in (tmp_path / "y.pt.manifest.json").read_text()


def test_timm_weights_that_lack_blocks_beside_their_head_are_refused(tmp_path: Path) -> None:
    overlay = {"file": str(timm_weights(tmp_path, depth=11)), "num_classes": 5}
    with pytest.raises(CreationMismatchError, match=r"lacks more of a vit_tiny_patch16_224 than its head \(blocks\.11"):
        manifest.create_model(
            "vit_tiny_patch16_224",
            family="timm",
            pretrained=True,
            num_classes=3,
            convert=["head"],
            pretrained_cfg_overlay=overlay,
        )


def test_factory_of_ones_own_is_called_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef build(width):\n    return nn.Sequential(nn.Linear(width, 2), nn.LayerNorm(2))\n"
    (tmp_path / "own_models.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    model = manifest.create_model("own_models:build", family="callable", width=3)
    manifest.save(model, tmp_path / "x.pt")
    loaded = manifest.load(tmp_path / "x.pt", allow=["own_models"])
    assert torch.equal(loaded(torch.ones(1, 3)), model(torch.ones(1, 3)))

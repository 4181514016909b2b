"""Files of architectures that were built with other arguments: whole, and told with the arguments that build them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
from torch import nn

import manifest
from manifest.errors import ArchitectureError, CreationMismatchError
from manifest.identification.identify import identify

Arguments = dict[str, Any]
ROWS: list[tuple[str, str, Arguments, str]] = [
    # Library, name, arguments, and what is said of the file: the name that it is told by, and the arguments.
    ("timm", "vit_tiny_patch16_224", {"num_classes": 10}, "vit_tiny_patch16_224 num_classes=10"),
    ("timm", "vit_tiny_patch16_224", {"num_classes": 0}, "vit_tiny_patch16_224 num_classes=0"),
    ("timm", "vit_tiny_patch16_224", {"img_size": 96}, "vit_tiny_patch16_384 img_size=96"),
    (
        "timm",
        "vit_tiny_patch16_224",
        {"num_classes": 10, "global_pool": "avg"},
        "vit_tiny_patch16_224 num_classes=10, global_pool='avg'",
    ),
    ("timm", "deit_tiny_distilled_patch16_224", {"num_classes": 5}, "deit_tiny_distilled_patch16_224 num_classes=5"),
    (
        "timm",
        "vit_small_patch14_reg4_dinov2",
        {"num_classes": 10, "img_size": 224},
        "vit_small_patch14_reg4_dinov2 num_classes=10, img_size=224",
    ),
    ("timm", "convnext_tiny", {"num_classes": 0}, "convnext_tiny num_classes=0"),
    ("timm", "swin_tiny_patch4_window7_224", {"num_classes": 3}, "swin_tiny_patch4_window7_224 num_classes=3"),
    (
        "timm",
        "eva02_tiny_patch14_224",
        {"num_classes": 4, "global_pool": "token"},
        "eva02_tiny_patch14_224 num_classes=4, global_pool='token'",
    ),
    ("timm", "fastvit_t8", {"inference_mode": True}, "fastvit_t8 inference_mode=True"),
    (
        "timm",
        "fastvit_t8",
        {"inference_mode": True, "num_classes": 4},
        "fastvit_t8 num_classes=4, inference_mode=True",
    ),
    ("open_clip", "ViT-S-32-alt", {"force_context_length": 248}, "ViT-S-32-alt force_context_length=248"),
    ("open_clip", "ViT-S-32-alt", {"force_image_size": 256}, "ViT-S-32-alt force_image_size=256"),
    (
        "open_clip",
        "ViT-S-32-alt",
        {"force_image_size": 256, "force_context_length": 64},
        "ViT-S-32-alt force_context_length=64, force_image_size=256",
    ),
    ("open_clip", "RN50", {"force_image_size": 288}, "RN50 force_image_size=288"),
    ("torchvision", "resnet18", {"num_classes": 10}, "resnet18 num_classes=10"),
    ("torchvision", "vit_b_32", {"image_size": 256}, "vit_b_32 image_size=256"),
]
IDS = [f"{name}-{'-'.join(map(str, arguments))}" for _, name, arguments, _ in ROWS]


def built(library: str, name: str, arguments: Arguments) -> nn.Module:
    """A model on the meta device."""
    with torch.device("meta"):
        if library == "timm":
            model: nn.Module = timm.create_model(name, **arguments)
        elif library == "open_clip":
            model = open_clip.create_model(name, device="meta", **arguments)
        else:
            model = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("library", "name", "arguments", "words"), ROWS, ids=IDS)
def test_file_when_built_with_other_arguments_then_they_are_told_and_build_it_again(
    library: str, name: str, arguments: Arguments, words: str
) -> None:
    file = shapes(built(library, name, arguments))
    told = next(each for each in identify(file).candidates if each.library == library)
    assert told.exact
    assert f"{told.name} {told.otherwise}" == words
    again = built(library, told.name, eval(f"dict({told.otherwise})"))
    assert shapes(again) == file


@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0"])
def test_file_when_branches_were_merged_by_a_function_then_that_is_told(name: str) -> None:
    model = timm.utils.reparameterize_model(timm.create_model(name, num_classes=5))
    told = identify(shapes(model)).candidates[0]
    assert (told.library, told.name, told.exact) == ("timm", name, True)
    assert told.otherwise == "num_classes=5, then `timm.utils.reparameterize_model(model)`"
    assert set(told.stored.values()) <= set(shapes(model))


@pytest.mark.parametrize(
    ("library", "name", "change"),
    [
        ("timm", "vit_tiny_patch16_224", lambda file: file.pop("norm.weight")),
        ("timm", "vit_tiny_patch16_224", lambda file: file.pop("head.bias")),
        ("timm", "vit_tiny_patch16_224", lambda file: file.update({"blocks.3.mlp.fc1.weight": (700, 192)})),
        ("torchvision", "resnet18", lambda file: [file.pop(name) for name in ("fc.weight", "fc.bias")]),
        ("open_clip", "ViT-S-32-alt", lambda file: file.update({"positional_embedding_res": (77, 256)})),
        ("open_clip", "ViT-S-32-alt", lambda file: file.update({"visual.positional_embedding": (61, 384)})),
    ],
    ids=["a norm is gone", "half a head", "another width", "no head", "a second table", "no square of patches"],
)
def test_file_when_something_else_differs_then_no_argument_explains_it(library: str, name: str, change: Any) -> None:
    file = shapes(built(library, name, {}))
    change(file)
    assert not any(each.exact for each in identify(file).candidates if each.library == library)


def test_detector_when_its_classes_are_others_then_no_number_is_guessed() -> None:
    file = shapes(built("torchvision", "retinanet_resnet50_fpn", {"num_classes": 5, "weights_backbone": None}))
    (told, *_) = identify(file).candidates
    assert (told.name, told.exact, told.otherwise) == ("retinanet_resnet50_fpn", False, "")


@pytest.fixture
def averaged(tmp_path: Path) -> Path:
    """The bare weights of a trained-looking ViT that pools by averaging, for ten classes."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, global_pool="avg")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    return tmp_path / "bare.pt"


def test_audit_when_pooling_and_head_are_others_then_the_file_is_whole(averaged: Path) -> None:
    report = manifest.audit(averaged)
    identity = next(rung for rung in report.rungs if rung.name == "identity")
    twins = "timm vit_tiny_patch16_224 or deit_tiny_patch16_224"
    assert identity.reason == f"{twins} with num_classes=10, global_pool='avg'"
    assert [part.status.value for part in report.components] == ["complete", "complete"]
    assert (report.exit_code, {found.rule for found in report.findings()}) == (0, {"A011"})


def test_create_when_an_argument_lacks_then_names_it_and_takes_it(averaged: Path) -> None:
    with pytest.raises(ArchitectureError, match=r"with global_pool='avg': pass that \(`--argument global_pool=avg`\)"):
        manifest.create(averaged, "vit_tiny_patch16_224", family="timm", arguments={"num_classes": 10}, golden=False)
    arguments = {"num_classes": 10, "global_pool": "avg"}
    manifest.create(averaged, "vit_tiny_patch16_224", family="timm", arguments=arguments)
    assert manifest.verify(averaged).exit_code == 0


def test_create_model_when_the_library_would_convert_then_names_the_argument_instead(tmp_path: Path) -> None:
    model = open_clip.create_model("ViT-S-32-alt", force_context_length=248)
    torch.save(model.state_dict(), tmp_path / "long.pt")
    with (
        pytest.warns(match="has no manifest"),
        pytest.raises(CreationMismatchError, match="build the model that they are of, with force_context_length=248"),
    ):
        manifest.create_model("ViT-S-32-alt", pretrained=str(tmp_path / "long.pt"))


@pytest.mark.parametrize("described", [True, False])
def test_create_model_when_the_library_would_fail_then_the_argument_is_named(described: bool, averaged: Path) -> None:
    if described:
        arguments = {"num_classes": 10, "global_pool": "avg"}
        manifest.create(averaged, "vit_tiny_patch16_224", family="timm", arguments=arguments, golden=False)
    call = {"model_name": "vit_tiny_patch16_224", "num_classes": 10, "checkpoint_path": str(averaged)}
    with pytest.raises(CreationMismatchError, match="built with global_pool='avg'; pass that"):
        manifest.timm.create_model(**call)
    model = manifest.timm.create_model(**call, global_pool="avg")
    assert torch.equal(model.fc_norm.weight, torch.load(averaged)["fc_norm.weight"])


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"num_classes": 2}, "num_classes=10, global_pool='avg'"), ({"num_classes": 10, "img_size": 256}, "img_size=224")],
)
def test_create_model_when_timm_would_not_convert_then_no_conversion_is_offered(
    asked: Arguments, words: str, averaged: Path
) -> None:
    call = {"model_name": "vit_tiny_patch16_224", "checkpoint_path": str(averaged), **asked}
    with pytest.raises(CreationMismatchError, match="pass that to build the same") as caught:
        manifest.timm.create_model(**call, convert=["head", "position_embedding"])
    assert words in str(caught.value)
    assert "convert=" not in str(caught.value)


def test_longclip_when_its_second_table_is_there_then_says_whose_it_is(tmp_path: Path) -> None:
    state = open_clip.create_model("ViT-S-32-alt", force_context_length=248).state_dict()
    torch.save({**state, "positional_embedding_res": state["positional_embedding"]}, tmp_path / "long.pt")
    found = {each.rule: each for each in manifest.audit(tmp_path / "long.pt").findings()}
    assert "has [77, 256]: force_context_length=248." in found["A011"].message
    assert found["A013"].remedy.startswith("It is of a LongCLIP, whose own code adds a second table of positions")
    with pytest.raises(ArchitectureError, match="it is of a LongCLIP"):
        manifest.create(tmp_path / "long.pt", "ViT-S-32-alt", arguments={"force_context_length": 248}, golden=False)


class Archive(nn.Module):
    """A CLIP as OpenAI's archives hold it: three settings as tensors beside the weights."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        for name, child in clip.named_children():
            setattr(self, name, child)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            setattr(self, name, getattr(clip, name))
        for name, value in (("input_resolution", 32), ("context_length", 8), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_archive_of_openai_when_described_then_goes_the_whole_way(
    digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    path = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.trace(Archive(digits_model), torch.zeros(1)), path)
    config = json.loads((digits.HERE / "digits-clip.json").read_text())
    (tmp_path / "digits-gelu.json").write_text(json.dumps({**config, "quick_gelu": False}))
    with pytest.warns(match="OpenAI's archives have, whose models were trained with QuickGELU"):
        manifest.create(path, "digits-gelu", model_config=tmp_path / "digits-gelu.json", floor="none")
    assert [each.rule for each in manifest.verify(path).findings() if each.rule == "A012"] == ["A012"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*QuickGELU")
        manifest.create(path, digits.MODEL, floor="none")
    assert manifest.verify(path).exit_code == 0
    loaded = manifest.load(path)
    assert torch.equal(loaded.text_projection, digits_model.text_projection)
    manifest.convert(path, tmp_path / "archive.safetensors")
    assert manifest.verify(tmp_path / "archive.safetensors").exit_code == 0

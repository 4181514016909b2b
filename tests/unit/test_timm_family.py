"""timm models: from a creation call, or from the bare module, to an architecture and back to the same module."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.activations import QuickGELU
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError, UnknownModelError
from manifest.families import family_of
from manifest.families.equivalence import first_difference
from manifest.families.protocol import Creation
from manifest.families.timm.adapter import FAMILY
from manifest.probes.inputs import photographs
from manifest.schema.document import Architecture, Manifest

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {}),
    ("vit_tiny_patch16_224", {"act_layer": "quick_gelu", "num_classes": 5}),
    ("vit_tiny_patch16_224", {"act_layer": nn.SiLU, "img_size": (256, 192)}),
    ("vit_tiny_patch16_224", {"norm_layer": partial(nn.LayerNorm, eps=1e-3), "drop_path_rate": 0.1}),
    ("vit_tiny_patch16_224", {"global_pool": "avg", "class_token": False, "in_chans": 1}),
    ("vit_tiny_patch16_224", {"features_only": True, "out_indices": [2, 3]}),
    ("vit_base_patch16_clip_224.openai", {}),
    ("vit_base_patch16_siglip_224", {}),
    ("resnet18", {"features_only": True, "out_indices": (1, 2)}),
    ("resnet18", {"norm_layer": BatchNormAct2d, "drop_rate": 0.2}),
    ("convnext_atto", {"pretrained_cfg_overlay": {"num_classes": 7, "mean": (0.5, 0.5, 0.5)}}),
    ("mobilenetv3_small_050", {"num_classes": 0, "global_pool": "max"}),
    ("swin_tiny_patch4_window7_224", {"img_size": 256}),
    ("eva02_tiny_patch14_224", {}),
    ("efficientnet_b0", {"exportable": True}),
]
IDS = [f"{name}-{'-'.join(arguments) or 'as-registered'}" for name, arguments in CALLS]
WITH_TABLES = ["eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224", "vit_relpos_small_patch16_224", "levit_128s"]


def without_values(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **arguments)
    return model


@cache
def described(name: str) -> Architecture:
    return FAMILY.describe(Creation(name)).architecture


def after_json(architecture: Architecture) -> Architecture:
    return Architecture.model_validate(json.loads(architecture.model_dump_json(by_alias=True)))


def recorded(model: nn.Module, path: Path) -> Manifest:
    return manifest.save(model, path)


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=IDS)
@pytest.mark.parametrize("known", [pytest.param("call", marks=pytest.mark.whole), "bare module"])
def test_model_after_a_round_trip_through_json_is_built_as_it_was(
    name: str, arguments: dict[str, Any], known: str
) -> None:
    live = without_values(name, **arguments)
    architecture = FAMILY.capture(live, Creation(name, arguments) if known == "call" else None).architecture
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None


@pytest.mark.parametrize("name", WITH_TABLES)
def test_tables_that_no_checkpoint_holds_are_those_of_a_normal_build(name: str) -> None:
    built, real = FAMILY.build(described(name)), timm.create_model(name)
    assert first_difference(built, real) is None
    assert all(parameter.is_meta for parameter in built.parameters())
    expected = dict(real.named_buffers())
    assert all(torch.equal(buffer, expected[key]) for key, buffer in built.named_buffers())


def test_module_is_recognised_as_timms_and_a_tower_of_open_clip_is_not() -> None:
    assert family_of(without_values("resnet18")) is FAMILY
    assert not FAMILY.recognises(nn.Linear(2, 2))


def test_tag_that_changes_nothing_is_no_part_of_the_name_and_one_that_does_is() -> None:
    assert described("resnet18.a1_in1k").name == "resnet18"
    assert described("vit_base_patch16_clip_224.openai").name == "vit_base_patch16_clip_224.openai"
    assert described("vit_base_patch16_clip_224").name == "vit_base_patch16_clip_224"


def test_tag_known_as_the_pretrained_one_brings_its_preprocessing() -> None:
    creation = Creation("vit_base_patch16_clip_224", pretrained="openai")
    preprocess = FAMILY.describe(creation).architecture.preprocess
    assert preprocess is not None
    assert (preprocess.crop_pct, preprocess.mean[0]) == (0.9, 0.48145466)


def test_head_and_size_changed_afterwards_are_read_off_the_module() -> None:
    live: Any = without_values("vit_tiny_patch16_224")
    live.reset_classifier(3)
    live.set_input_size((256, 128))
    architecture = FAMILY.capture(live, None).architecture
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None
    assert architecture.config["num_classes"] == 3
    assert architecture.preprocess is not None
    assert architecture.preprocess.size == [256, 128]


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("convnext_atto", "head.fc"), ("test_vit", "head")])
def test_head_put_in_by_hand_is_read_off_its_shape_though_the_module_says_otherwise(name: str, head: str) -> None:
    live: Any = without_values(name)
    holder, _, attribute = head.rpartition(".")
    setattr(live.get_submodule(holder), attribute, nn.Linear(live.get_submodule(head).in_features, 9, device="meta"))
    architecture = FAMILY.capture(live, None).architecture
    again: Any = FAMILY.build(after_json(architecture))
    assert first_difference(again, live) is None
    assert (again.get_submodule(head).out_features, again.num_classes) == (9, 1000)


def test_windows_that_follow_another_input_size_are_set_again() -> None:
    live: Any = without_values("swin_tiny_patch4_window7_224")
    live.set_input_size(img_size=(256, 256))
    architecture = FAMILY.capture(live, None).architecture
    assert architecture.config["afterwards"] == {"img_size": {"$tuple": [256, 256]}}
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None


def test_module_without_the_notes_of_a_newer_timm_is_read_off_what_it_shows() -> None:
    live: Any = without_values("vit_tiny_patch16_224", num_classes=4, act_layer=nn.ReLU, drop_path_rate=0.1)
    del live._model_args
    architecture = FAMILY.capture(live, None).architecture
    assert architecture.config["drop_path_rate"] == 0.1
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None


def test_activation_put_in_by_hand_is_read_off_the_module() -> None:
    live: Any = without_values("vit_tiny_patch16_224")
    for block in live.blocks:
        block.mlp.act = QuickGELU()
    architecture = FAMILY.capture(live, None).architecture
    assert architecture.activations == {"model": {"QuickGELU": 12}}
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None


def test_module_changed_beyond_what_any_call_gives_is_refused_in_one_sentence() -> None:
    live: Any = without_values("vit_tiny_patch16_224")
    live.blocks[3].mlp.act = nn.Hardtanh()
    with pytest.raises(ArchitectureError, match=r"cannot be rebuilt .*blocks\.3\.mlp\.act"):
        FAMILY.capture(live, None)


def test_precision_gives_the_types_of_the_parameters() -> None:
    live = without_values("test_vit").bfloat16()
    architecture = FAMILY.capture(live, None).architecture
    assert architecture.precision == "bf16"
    assert {parameter.dtype for parameter in FAMILY.build(architecture).parameters()} == {torch.bfloat16}


def test_precision_when_asked_by_name_then_is_recorded_and_an_unknown_one_refused() -> None:
    assert FAMILY.describe(Creation("test_vit", {"precision": "fp16"})).architecture.precision == "fp16"
    with pytest.raises(ArchitectureError, match="There is no precision 'fp12'"):
        FAMILY.describe(Creation("test_vit", {"precision": "fp12"}))


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'resnet_18'; did you mean .*resnet18"):
        FAMILY.describe(Creation("resnet_18"))


def test_unknown_tag_is_answered_with_those_there_are() -> None:
    with pytest.raises(UnknownModelError, match=r"no weights 'a1_in2k' of resnet18; did you mean a1_in1k"):
        FAMILY.describe(Creation("resnet18.a1_in2k"))


def test_argument_that_cannot_be_written_down_is_refused() -> None:
    with pytest.raises(InputError, match="no JSON value"):
        FAMILY.describe(Creation("test_vit", {"act_layer": lambda: nn.GELU()}))


def test_directory_that_timm_saved_is_resolved_with_its_arguments_and_its_images(tmp_path: Path) -> None:
    live = timm.create_model("test_vit", num_classes=7, pretrained_cfg_overlay={"crop_pct": 0.5})
    timm.models.save_for_hf(live, tmp_path, model_args={"num_classes": 7})
    architecture = FAMILY.describe(Creation(f"local-dir:{tmp_path}")).architecture
    assert (architecture.name, architecture.config["num_classes"]) == ("test_vit", 7)
    assert architecture.preprocess is not None
    assert architecture.preprocess.crop_pct == 0.5
    assert str(tmp_path) not in architecture.model_dump_json()
    assert first_difference(FAMILY.build(after_json(architecture)), live) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_name": "test_vit", "img_size": 10**6}, r"gives img_size as 1000000, expected at most 8,192"),
        ({"model_name": "test_vit", "depth": {"$tuple": [10**5]}}, r"gives depth as 100000, expected at most 1,024"),
        ({"model_name": "test_vit", "pretrained_cfg_overlay": {"num_classes": 10**9}}, "gives num_classes as"),
        ({"model_name": "hf-hub:timm/resnet18"}, "out of other places than its registry"),
        ({"model_name": "local-dir:/etc"}, "out of other places than its registry"),
        ({"model_name": "test_vit", "checkpoint_path": "/etc/passwd"}, "out of other places than its registry"),
        ({"model_name": "test_vit", "pretrained": True}, "out of other places than its registry"),
        ({"model_name": "test_vit", "act_layer": {"$class": "os.system"}}, "no layer or value of a model library"),
    ],
)
def test_config_that_no_one_saved_is_refused_before_anything_is_built(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        FAMILY.build(described("test_vit").model_copy(update={"config": config}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [10**6, 10**6]},
        {"size": []},
        {"crop_pct": 1e-6},
        {"crop_pct": -1.0},
        {"crop_mode": "x"},
        {"interpolation": "x"},
    ],
    ids=str,
)
def test_preprocessing_that_no_one_saved_is_refused(wrong: dict[str, Any]) -> None:
    sound = described("test_vit")
    assert sound.preprocess is not None
    made_up = sound.model_copy(update={"preprocess": sound.preprocess.model_copy(update=wrong)})
    with pytest.raises(ArchitectureError, match="none that timm has"):
        FAMILY.transforms(made_up)


@pytest.mark.parametrize("name", ["test_vit", "vit_base_patch16_clip_224.openai", "beit_base_patch16_224"])
def test_transform_that_is_rebuilt_prepares_images_as_timm_does(name: str) -> None:
    image = photographs()["coffee"]
    timms = timm.data.create_transform(**timm.data.resolve_model_data_config(without_values(name)))
    rebuilt, tokenizer = FAMILY.transforms(described(name))
    assert tokenizer is None
    assert torch.equal(rebuilt(image), timms(image))


def test_roles_of_a_classifier_are_backbone_and_head() -> None:
    architecture = described("vit_tiny_patch16_224")
    roles = FAMILY.roles(architecture, FAMILY.build(architecture).state_dict())
    assert {name for name, role in roles.items() if role == "head"} == {"head.weight", "head.bias"}
    assert set(roles.values()) == {"backbone", "head"}


def test_roles_of_a_model_with_two_heads_are_of_both() -> None:
    architecture = described("deit_tiny_distilled_patch16_224")
    roles = FAMILY.roles(architecture, FAMILY.build(architecture).state_dict())
    heads = {name for name, role in roles.items() if role == "head"}
    assert heads == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("vit_base_patch16_clip_224.openai", {}, {"vision_tower", "vision_projection"}),
        ("vit_base_patch16_clip_224.openai", {"num_classes": 0}, {"vision_tower"}),
        ("vit_base_patch16_clip_224.openai", {"num_classes": 10}, {"vision_tower", "head"}),
        ("vit_base_patch16_clip_224.openai_ft_in1k", {}, {"backbone", "head"}),
        ("vit_base_patch16_siglip_224", {}, {"vision_tower"}),
    ],
)
def test_roles_of_the_image_tower_of_a_clip_say_so(name: str, arguments: dict[str, Any], expected: set[str]) -> None:
    architecture = FAMILY.describe(Creation(name, arguments)).architecture
    assert set(FAMILY.roles(architecture, FAMILY.build(architecture).state_dict()).values()) == expected


def test_operators_of_a_quick_gelu_are_other_than_those_of_a_gelu() -> None:
    quick = FAMILY.describe(Creation("vit_tiny_patch16_224", {"act_layer": "quick_gelu"})).architecture.operators
    plain = described("vit_tiny_patch16_224").operators
    assert quick is not None
    assert plain is not None
    assert plain.counts["aten.gelu.default"] == quick.counts["aten.sigmoid.default"] == 12


@pytest.mark.parametrize(
    ("name", "cure"), [("test_vit", "quick_gelu"), ("vit_base_patch16_clip_quickgelu_224", "gelu")]
)
def test_variant_is_the_other_activation_with_its_cure(name: str, cure: str) -> None:
    (variant,) = FAMILY.variants(described(name))
    assert variant.cure == f"act_layer={cure!r}"
    other = {"gelu": "GELU", "quick_gelu": "QuickGELU"}[cure]
    assert set(FAMILY.activations(FAMILY.build(variant.architecture))["model"]) == {other}


def test_model_without_a_gelu_has_no_variant() -> None:
    assert FAMILY.variants(described("test_resnet")) == ()


@pytest.mark.parametrize(
    ("name", "arguments", "outputs"),
    [
        ("test_vit", {"num_classes": 5}, {"logits": [4, 5]}),
        ("test_resnet", {"num_classes": 0}, {"features": [4, 96]}),
        ("test_convnext", {"features_only": True, "out_indices": (0, 2)}, {"features.0": None, "features.1": None}),
    ],
)
def test_model_that_is_saved_verified_and_loaded_says_the_same(
    tmp_path: Path, name: str, arguments: dict[str, Any], outputs: dict[str, list[int] | None]
) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **arguments).eval()
    saved = manifest.save(model, tmp_path / "model.safetensors")
    (golden,) = saved.golden
    assert golden.probe == "photos/1"
    assert golden.outputs.keys() == outputs.keys()
    assert all(shape is None or golden.outputs[key].shape == shape for key, shape in outputs.items())
    assert manifest.verify(tmp_path / "model.safetensors").exit_code == 0
    again = manifest.load(tmp_path / "model.safetensors")
    image = manifest.load_transforms(tmp_path / "model.safetensors").preprocess(photographs()["rocket"])[None]
    with torch.no_grad():
        mine, yours = model(image), again(image)
    pairs = [(mine, yours)] if isinstance(mine, torch.Tensor) else list(zip(mine, yours, strict=True))
    # The loaded weights lie in a mapping of the file, where kernels may add in another order.
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in pairs)


def test_readings_of_a_thousand_classes_name_those_of_imagenet(tmp_path: Path) -> None:
    saved = manifest.save(timm.create_model("test_vit"), tmp_path / "model.pt")
    readings = saved.golden[0].reading
    assert [reading.image for reading in readings] == ["astronaut", "chelsea", "coffee", "rocket"]
    assert all(len(reading.prompts) == 5 for reading in readings)
    names = [name for reading in readings for name in reading.prompts]
    assert all(name.endswith(")") and not name.startswith("class") for name in names)


def test_verify_when_the_activation_of_the_record_was_changed_fails(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    manifest.save(timm.create_model("test_vit"), path)
    file = next(tmp_path.glob("*.manifest*"))
    content = json.loads(file.read_text())
    content["architecture"]["config"]["act_layer"] = "quick_gelu"
    file.write_text(json.dumps(content))
    assert "A001" in {item.rule for item in manifest.verify(path).findings()}


def test_layers_that_take_no_gradient_are_frozen_again(tmp_path: Path) -> None:
    model: Any = timm.create_model("test_resnet")
    model.conv1.requires_grad_(False)
    manifest.save(model, tmp_path / "model.pt", golden=False)
    again = manifest.load(tmp_path / "model.pt", verify="none")
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in again.named_parameters()} == expected
    assert not all(expected.values())

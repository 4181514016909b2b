"""From a creation call, or from the bare module, to an architecture and back to the same module."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from torch import nn

from manifest.errors import ArchitectureError, UnknownModelError
from manifest.families.json_arguments import from_data
from manifest.families.open_clip.adapter import FAMILY
from manifest.families.open_clip.inputs import load_tokenizer
from manifest.families.protocol import Creation
from manifest.fingerprints.structure import structure
from manifest.schema.document import Architecture, Tokenizer

NAMES = [
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "RN50",
    "convnext_base",
    "EVA02-B-16",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    pytest.param("MobileCLIP-S1", marks=pytest.mark.whole),
    "coca_ViT-B-32",
    "ViTamin-S",
    "PE-Core-T-16-384",
    pytest.param("swin_base_patch4_window7_224", marks=pytest.mark.whole),
]


@cache
def described(name: str) -> Architecture:
    return FAMILY.describe(Creation(name)).architecture


@cache
def built(name: str) -> nn.Module:
    return FAMILY.build(described(name))


@pytest.mark.parametrize("name", NAMES)
def test_module_whose_making_was_not_seen_is_recognised_by_what_it_shows(name: str) -> None:
    captured = FAMILY.capture(built(name), None).architecture
    assert captured.name == name
    assert captured.structure == described(name).structure
    assert captured.operators == described(name).operators
    assert captured.activations == described(name).activations


@pytest.mark.parametrize("name", NAMES)
def test_architecture_after_a_round_trip_through_json_rebuilds_the_same_module(name: str) -> None:
    text = described(name).model_dump_json(by_alias=True)
    again = FAMILY.build(Architecture.model_validate(json.loads(text)))
    assert structure(again) == structure(built(name))
    shapes = {key: (value.shape, value.dtype) for key, value in built(name).state_dict().items()}
    assert {key: (value.shape, value.dtype) for key, value in again.state_dict().items()} == shapes


@pytest.mark.parametrize("name", NAMES)
def test_module_is_built_with_every_buffer_and_no_parameter(name: str) -> None:
    assert not [key for key, buffer in built(name).named_buffers() if buffer.is_meta]
    assert not [key for key, parameter in built(name).named_parameters() if not parameter.is_meta]


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_has_a_role_and_both_towers_are_there(name: str) -> None:
    state = built(name).state_dict()
    roles = FAMILY.roles(described(name), state)
    assert roles.keys() == state.keys()
    assert {"vision_tower", "text_tower", "logit_scale"} <= set(roles.values())


@pytest.mark.parametrize(
    ("arguments", "part", "expected"),
    [
        ({"force_quick_gelu": True}, ("quick_gelu",), True),
        ({"force_image_size": 256}, ("vision_cfg", "image_size"), 256),
        ({"force_image_size": (256, 128)}, ("vision_cfg", "image_size"), (256, 128)),
        ({"force_context_length": 32}, ("text_cfg", "context_length"), 32),
        ({"force_patch_dropout": 0.5}, ("vision_cfg", "patch_dropout"), 0.5),
    ],
    ids=["quick_gelu", "image_size", "oblong", "context_length", "patch_dropout"],
)
def test_forced_argument_is_resolved_into_the_config_and_recorded(
    arguments: dict[str, Any], part: tuple[str, ...], expected: object
) -> None:
    architecture = FAMILY.describe(Creation("ViT-B-32", arguments)).architecture
    value = from_data(architecture.config)
    for key in part:
        value = value[key]
    assert value == expected
    assert from_data(json.loads(json.dumps(architecture.arguments))) == arguments
    assert structure(FAMILY.build(architecture)) != structure(built("ViT-B-32"))


def test_force_custom_text_gives_a_text_tower_of_its_own() -> None:
    architecture = FAMILY.describe(Creation("ViT-B-32", {"force_custom_text": True})).architecture
    assert architecture.class_name == "CustomTextCLIP"


def test_precision_gives_the_types_of_the_parameters() -> None:
    half = FAMILY.build(FAMILY.describe(Creation("ViT-B-32", {"precision": "pure_bf16"})).architecture)
    assert {str(parameter.dtype) for parameter in half.parameters()} == {"torch.bfloat16"}


def test_defaults_of_the_call_are_not_recorded() -> None:
    creation = Creation("ViT-B-32", {"force_quick_gelu": False, "precision": "fp32", "device": "cpu"})
    assert FAMILY.describe(creation).architecture.arguments == {}


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'ViT-B32'; did you mean .*ViT-B-32"):
        FAMILY.describe(Creation("ViT-B32"))


def test_argument_that_the_library_does_not_know_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=r"cannot be built with no_such_argument=1"):
        FAMILY.describe(Creation("ViT-B-32", {"no_such_argument": 1}))


@pytest.mark.parametrize(
    ("tower", "name", "size"),
    [
        ("vision_cfg", "width", 10**9),
        ("vision_cfg", "image_size", [10**6, 10**6]),
        ("text_cfg", "layers", 10**5),
        ("text_cfg", "context_length", 10**6),
        ("text_cfg", "vocab_size", 10**12),
    ],
)
def test_config_with_a_size_that_no_model_has_is_refused_before_it_is_built(tower: str, name: str, size: Any) -> None:
    sound = described("ViT-B-32")
    config = {**sound.config, tower: {**sound.config[tower], name: size}}
    with pytest.raises(ArchitectureError, match=rf"gives {name} as .*, expected at most"):
        FAMILY.build(sound.model_copy(update={"config": config}))


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/tmp"])
def test_vision_tower_that_leads_to_a_hub_or_a_directory_is_refused(name: str) -> None:
    sound = described("convnext_base")
    config = {**sound.config, "vision_cfg": {**sound.config["vision_cfg"], "timm_model_name": name}}
    with pytest.raises(ArchitectureError, match=rf"vision tower '{name}', which leads to a hub"):
        FAMILY.build(sound.model_copy(update={"config": config}))


def test_tokenizer_record_that_names_files_or_code_is_read_without_them() -> None:
    hostile = {"bpe_path": "/etc/passwd", "trust_remote_code": True, "clean": "lower"}
    record = Tokenizer.model_validate({"class": "SimpleTokenizer", "arguments": hostile, "context_length": 77})
    tokenizer = load_tokenizer(record)
    assert tokenizer(["a photo of a cat"]).shape == (1, 77)
    assert tokenizer.vocab_size == 49408


def test_tokenizer_of_an_unknown_class_is_none() -> None:
    record = Tokenizer.model_validate({"class": "os.system", "name": "x", "context_length": 77})
    assert load_tokenizer(record) is None


def test_module_when_its_attention_mask_is_changed_then_is_not_as_its_config_builds() -> None:
    module: Any = FAMILY.build(described("ViT-B-32"))
    module.attn_mask[0, 1] = 0.0
    with pytest.raises(ArchitectureError, match="attn_mask: a buffer that no checkpoint holds has other values"):
        FAMILY.capture(module, None)


def test_module_whose_weights_were_tied_is_not_taken_for_what_its_config_builds() -> None:
    module: Any = FAMILY.build(described("ViT-B-32"))
    module.visual.ln_post.weight = module.visual.ln_pre.weight
    with pytest.raises(ArchitectureError, match="tied weights"):
        FAMILY.capture(module, None)

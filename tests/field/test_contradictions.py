"""A record whose parts contradict each other, or a registry: said when it is saved, and when it is verified."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import open_clip
import pytest
import timm
import torch
import torchvision
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

import manifest
from manifest.capture.live_model import live_model
from manifest.capture.options import RecordOptions
from manifest.capture.provenance import provenance_of
from manifest.checks.origin import inner_contradictions, origin_findings
from manifest.families import remember
from manifest.families.open_clip.inputs import ids_of_texts
from manifest.families.protocol import Creation
from manifest.schema.document import Manifest
from manifest.storage.sidecars import Sidecars
from tests.sampling import sampled

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}

TIMM = "vit_base_patch32_clip_224.openai"


@cache
def made(name: str, *, of_timm: bool = False, **arguments: Any) -> nn.Module:
    """A model, made once whatever is said of its origin."""
    torch.manual_seed(0)
    if of_timm:
        return cast(nn.Module, timm.create_model(name, **arguments))
    return cast(nn.Module, open_clip.create_model_and_transforms(name, **arguments)[0])


def clip(tag: str | None, *, quick: bool, **preprocessing: Any) -> nn.Module:
    """What open_clip makes of a call that names a tag, as if the tag's weights were at hand."""
    model = made("ViT-B-32", force_quick_gelu=quick, **preprocessing)
    remember(model, Creation("ViT-B-32", {"force_quick_gelu": quick}, pretrained=tag))
    return model


def vit(name: str, **arguments: Any) -> nn.Module:
    """What timm makes of a tag of OpenAI's vision tower; its own default for the first name is GELU."""
    model = made(name, of_timm=True, **arguments)
    remember(model, Creation(name, {**arguments, "pretrained": True}, family="timm"))
    return model


ROWS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    # Situation: the model, and what is said of it.
    "OpenAI's weights with GELU": (lambda: clip("openai", quick=False), "were trained with QuickGELU"),
    "LAION's weights with QuickGELU": (lambda: clip("laion2b_s34b_b79k", quick=True), "were trained with GELU"),
    "OpenAI's weights with QuickGELU": (lambda: clip("openai", quick=True), None),
    "LAION's weights with GELU": (lambda: clip("laion2b_s34b_b79k", quick=False), None),
    "a file of one's own": (lambda: clip("epoch_3.pt", quick=False), None),
    "no weights to begin with": (lambda: clip(None, quick=False), None),
    "timm's tag of OpenAI's weights": (lambda: vit(TIMM), "were trained with QuickGELU"),
    "timm's tag of OpenAI's weights, cured": (lambda: vit(TIMM, act_layer="quick_gelu"), None),
    "timm's name with QuickGELU": (lambda: vit("vit_base_patch32_clip_quickgelu_224.openai"), None),
}


@pytest.mark.parametrize("situation", sampled(ROWS, 2))
def test_activation_when_the_tag_had_another_then_it_is_a_contradiction(situation: str) -> None:
    make, words = ROWS[situation]
    live = live_model(make(), RecordOptions(golden=False), None, model_name=None, family=None, arguments=None)
    provenance = provenance_of(live.family, live.creation, live.facts)
    found = [each.message for each in origin_findings(live.captured.architecture, provenance)]
    found = [message for message in found if "were trained with" in message]
    assert len(found) == (1 if words else 0)
    assert words is None or words in found[0]


def test_activation_when_the_tag_had_another_then_save_and_verify_say_so(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest.save(clip("openai", quick=False), tmp_path / "ckpt.pt", floor="none", golden=False)
    said = [str(each.message) for each in caught if "were trained with QuickGELU" in str(each.message)]
    report = manifest.verify(tmp_path / "ckpt.pt")
    found = [each.message for each in report.findings() if each.rule == "A012"]
    assert report.exit_code == 0
    assert (len(said), len(found)) == (1, 1)


def test_preprocessing_when_the_tag_had_another_then_verify_notes_it(tmp_path: Path) -> None:
    manifest.save(clip("openai", quick=True, **IMAGENET), tmp_path / "ckpt.pt", floor="none", golden=False)
    report = manifest.verify(tmp_path / "ckpt.pt")
    notes = [each.message for each in report.findings() if each.rule == "A012"]
    assert report.exit_code == 0
    assert len(notes) == 1
    assert "were trained on images of mean [0.48145466" in notes[0]


@pytest.mark.parametrize(
    ("claim", "words"),
    sampled(
        [
            ("timm:vit_base_patch32_clip_224.openai", "were trained with QuickGELU, and the name"),
            ("timm:vit_base_patch32_clip_224/openai", "were trained with QuickGELU, and the name"),
            ("timm:vit_base_patch32_clip_quickgelu_224.openai", None),
            ("timm:vit_base_patch32_clip_224.laion2b", None),
        ],
        2,
    ),
)
def test_audit_when_a_tag_of_timm_is_declared_then_knows_its_activation(
    claim: str, words: str | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch32_clip_224", num_classes=512)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    report = manifest.audit(tmp_path / "weights.pth", claimed=claim)
    found = [each for each in report.findings() if "were trained with" in each.message]
    assert len(found) == (1 if words else 0)
    assert words is None or (words in found[0].message and "act_layer='quick_gelu'" in str(found[0].remedy))


@pytest.mark.parametrize(
    ("dtype", "precision", "words"),
    [
        (torch.float16, "fp32", "in float16, and the model is recorded in fp32"),
        (torch.bfloat16, "fp32", "in bfloat16, and the model is recorded in fp32"),
        (torch.float16, "pure_fp16", None),
        (torch.float32, "fp32", None),
    ],
)
def test_precision_when_the_weights_are_in_another_then_create_and_verify_say_so(
    dtype: torch.dtype, precision: str, words: str | None, digits: Any, digits_model: Any, tmp_path: Path
) -> None:
    torch.save({name: value.to(dtype) for name, value in digits_model.state_dict().items()}, tmp_path / "half.pt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manifest.create(tmp_path / "half.pt", digits.MODEL, arguments={"precision": precision}, golden=False)
    said = [str(each.message) for each in caught if "the model is recorded in" in str(each.message)]
    report = manifest.verify(tmp_path / "half.pt")
    found = [each.message for each in report.findings() if each.rule == "A012"]
    assert (report.exit_code, len(said), len(found)) == (0, *((1, 1) if words else (0, 0)))
    assert words is None or (words in said[0] and words in found[0])


@pytest.fixture(scope="module")
def records(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A record of each library, none of which contradicts itself."""
    place = tmp_path_factory.mktemp("contradictions")
    options: dict[str, Any] = {"floor": "none", "golden": False}
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), place / "clip.pt", **options)
    torch.manual_seed(0)
    manifest.save(timm.create_model("test_vit", num_classes=10), place / "vit.pt", **options)
    config = ResNetConfig(embedding_sizes=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5)
    manifest.save(ResNetForImageClassification(config), place / "resnet.pt", **options)
    detector = torchvision.models.get_model("ssdlite320_mobilenet_v3_large", num_classes=7, weights_backbone=None)
    manifest.save(detector, place / "detector.pt", **options)
    return {
        "open_clip": place / "clip.pt",
        "timm": place / "vit.pt",
        "transformers": place / "resnet.pt",
        "torchvision": place / "detector.pt",
    }


def with_mask(content: Any) -> None:
    mask = {"name": "attn_mask", "shape": [77, 77], "dtype": "float32", "digest": "blake3:" + "0" * 64}
    content["weights"]["tensors"].append(mask)


def with_labels(content: Any) -> None:
    content["architecture"]["config"]["id2label"] = {str(index): f"kind {index}" for index in range(3)}


SELF: dict[str, tuple[str, Callable[[Any], None], str, str]] = {
    # Situation: the record, what is written into it, the words, and words of the cure.
    "larger images": (
        "open_clip",
        lambda content: content["architecture"]["preprocess"].update(size=[64, 64]),
        "Images are prepared to 64 × 64 pixels, and the model is built for 32 × 32.",
        "set_model_preprocess_cfg",
    ),
    "more tokens than rows": (
        "open_clip",
        lambda content: content["architecture"]["tokenizer"].update(vocabulary=49410),
        "The tokenizer makes ids up to 49409, and the token embedding has 49408 rows, for ids up to 49407.",
        "the tokenizer that it was trained with",
    ),
    "longer prompts": (
        "open_clip",
        lambda content: content["architecture"]["tokenizer"].update(context_length=77),
        "Prompts are made 77 tokens long, and the positional embedding has 8 rows.",
        "force_context_length=8",
    ),
    "a longer context": (
        "open_clip",
        lambda content: content["architecture"]["config"]["text_cfg"].update(context_length=77),
        "The config has a context_length of 77, and the positional embedding has 8 rows.",
        "force_context_length=8",
    ),
    "a larger mask": (
        "open_clip",
        with_mask,
        "The attention mask is for 77 tokens, and the positional embedding has 8 rows.",
        "build_causal_mask",
    ),
    "other classes": (
        "timm",
        lambda content: content["architecture"]["config"].update(num_classes=7),
        "The config has num_classes=7, and no tensor of the head has 7 rows: head.bias has 10.",
        "as many classes as the head has rows",
    ),
    "names of other classes": (
        "timm",
        lambda content: content["provenance"].update(categories=["a", "b", "c"]),
        "The record names 3 classes, those of the weights that it started from, and no tensor of the head has as many",
        "the names of your own classes",
    ),
    "other classes of a detector": (
        "torchvision",
        lambda content: content["architecture"]["config"]["arguments"].update(num_classes=5),
        "The config has num_classes=5, and no tensor of the head has 5 rows: head.regression_head.",
        "as many classes as the head has rows",
    ),
    "other labels": (
        "transformers",
        with_labels,
        "The config has 3 labels in id2label, and no tensor of the head has 3 rows: classifier.1.bias has 5.",
        "as many classes as the head has rows",
    ),
}


def of_itself(content: Any) -> list[Any]:
    record = Manifest.model_validate(content)
    return list(inner_contradictions(record, record.provenance.categories))


@pytest.mark.parametrize("situation", SELF)
def test_record_when_one_part_contradicts_another_then_says_what_and_the_cure(
    situation: str, records: dict[str, Path]
) -> None:
    which, change, words, cure = SELF[situation]
    content = json.loads(Sidecars(records[which]).manifest.read_text())
    assert not of_itself(content)
    change(content)
    (found,) = of_itself(content)
    assert found.rule == "A012"
    assert found.message.startswith(words)
    assert cure in str(found.remedy)


def test_tokenizer_when_it_has_more_ids_than_rows_then_create_and_verify_say_so(digits: Any, tmp_path: Path) -> None:
    config = json.loads((digits.HERE / "digits-clip.json").read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"additional_special_tokens": ["<new>"]}
    (tmp_path / "digits-clip-new.json").write_text(json.dumps(config))
    shutil.copy(digits.WEIGHTS, tmp_path / "w.safetensors")
    with pytest.warns(UserWarning, match="makes ids up to 49408, and the token embedding has 49408 rows"):
        manifest.create(
            tmp_path / "w.safetensors", "digits-clip-new", model_config=tmp_path / "digits-clip-new.json", golden=False
        )
    report = manifest.verify(tmp_path / "w.safetensors")
    assert [found.message for found in report.findings() if found.rule == "A012"] == [
        "The tokenizer makes ids up to 49408, and the token embedding has 49408 rows, for ids up to 49407."
    ]


def test_tokenizer_when_its_last_ids_stand_for_no_text_then_they_count_for_nothing() -> None:
    assert ids_of_texts({"a": 0, "b": 1, "▁<extra_id_0>": 2, "<extra_id_1>": 3, "[unused9]": 4}) == 2
    assert ids_of_texts({"a": 0, "</s>": 1}) == 2
    assert ids_of_texts({}) is None


def test_record_of_an_earlier_version_when_it_has_no_vocabulary_then_nothing_is_said(
    records: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads(Sidecars(records["open_clip"]).manifest.read_text())
    assert content["architecture"]["tokenizer"].pop("vocabulary") == 49408
    shutil.copy(records["open_clip"], tmp_path / "clip.pt")
    Sidecars(tmp_path / "clip.pt").manifest.write_text(json.dumps(content))
    assert {found.rule for found in manifest.verify(tmp_path / "clip.pt").findings()}.isdisjoint({"A007", "A012"})

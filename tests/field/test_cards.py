"""Readings off a model card: what was done otherwise than on record, by name, and a card that is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel

import manifest
from manifest.errors import ArchitectureError, InputError
from manifest.probes.inputs import photographs


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cards") / "digits.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path, floor="none")
    return path


@pytest.mark.parametrize(("scale", "there"), [(50.0, "50 times the cosine"), (33.3, "33.3 times the cosine")])
def test_card_when_made_with_another_scale_then_the_scale_is_found(
    scale: float, there: str, saved: Path, tmp_path: Path
) -> None:
    model: Any = manifest.load(saved)
    model.logit_scale.data.fill_(torch.log(torch.tensor(scale)).item())
    card = tmp_path / "card.json"
    card.write_text(json.dumps([each.model_dump() for each in manifest.answer(model, saved).reading]))
    (found,) = manifest.diagnose(saved, card).findings()
    assert f"come out with {there} instead of" in found.message
    assert found.remedy.startswith(f"To get them: {scale:g} * normalize(image_features)")


@pytest.fixture(scope="module")
def sigmoid(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits CLIP as if it had been trained with the sigmoid loss."""
    path = tmp_path_factory.mktemp("sigmoid") / "digits.pt"
    model: Any = open_clip.create_model(digits.MODEL, init_logit_bias=-10.0)
    model.load_state_dict(manifest.load(digits.WEIGHTS, verify="none").state_dict(), strict=False)
    manifest.save(model, path, floor="none")
    return path


@pytest.mark.parametrize(
    ("there", "made"),
    [
        ("no logit_bias", lambda cosine, scale: (scale * cosine).sigmoid()),
        ("softmax over the prompts", lambda cosine, scale: (scale * cosine - 10).softmax(dim=-1)),
        ("softmax of 100 times the cosine", lambda cosine, _: (100 * cosine).softmax(dim=-1)),
    ],
)
def test_card_when_a_sigmoid_model_is_read_as_another_then_says_so(
    there: str, made: Callable[..., torch.Tensor], sigmoid: Path, tmp_path: Path
) -> None:
    model: Any = manifest.load(sigmoid)
    preprocess, tokenizer = manifest.load_transforms(sigmoid)
    prompts = ["a photo of a cat", "a photo of a dog", "a red car in the rain", "a diagram"]
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(each) for each in photographs().values()]), normalize=True)
        cosine = images.double() @ model.encode_text(tokenizer(prompts), normalize=True).double().T
        read = made(cosine, model.logit_scale.exp().double())
    card = [
        {"image": name, "prompts": {prompt: round(p, 4) for prompt, p in zip(prompts, row, strict=True)}}
        for name, row in zip(photographs(), read.tolist(), strict=True)
    ]
    (tmp_path / "card.json").write_text(json.dumps(card))
    (found,) = manifest.diagnose(sigmoid, tmp_path / "card.json").findings()
    assert f"come out with {there} instead of sigmoid of each logit, with logit_bias" in found.message


def test_card_when_few_numbers_were_made_with_the_usual_scale_then_says_so(saved: Path, tmp_path: Path) -> None:
    model: Any = manifest.load(saved)
    preprocess, tokenizer = manifest.load_transforms(saved)
    with torch.no_grad():
        image = unit(model.encode_image(preprocess(photographs()["chelsea"])[None]))
        read = (100 * image @ unit(model.encode_text(tokenizer(["a cat", "a dog"]))).T).softmax(dim=-1)[0].tolist()
    card = [{"image": "chelsea", "prompts": dict(zip(["a cat", "a dog"], read, strict=True))}]
    (tmp_path / "card.json").write_text(json.dumps(card))
    (found,) = manifest.diagnose(saved, tmp_path / "card.json").findings()
    assert "come out with 100 times the cosine instead of" in found.message


def test_card_when_it_has_few_numbers_then_no_scale_is_fitted(saved: Path, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text('[{"image": "chelsea", "prompts": {"a photo of a cat": 0.7, "a photo of a dog": 0.3}}]')
    (found,) = manifest.diagnose(saved, card).findings()
    assert "times the cosine" not in found.message


LABELS = ["cat", "dog", "red car", "diagram"]
ENSEMBLE = ["a photo of a {}.", "{} art", "itap of a {}.", "the {}"]
Embed = Callable[[torch.Tensor], torch.Tensor]
"""Embeddings of shape (labels, templates, width), not normalised → (labels, width)."""


def unit(features: torch.Tensor) -> torch.Tensor:
    return nn.functional.normalize(features, dim=-1)


def rightly(features: torch.Tensor) -> torch.Tensor:
    return unit(unit(features).mean(dim=1))


def averaged_first(features: torch.Tensor) -> torch.Tensor:
    return unit(features.mean(dim=1))


def mean_as_it_is(features: torch.Tensor) -> torch.Tensor:
    return unit(features).mean(dim=1)


def card_of(
    saved: Path, names: list[str], templates: list[str], embed: Embed, labels: list[str] = LABELS
) -> list[dict[str, Any]]:
    """Readings by code of one's own: labels in templates, their embeddings, softmax of the scaled cosines."""
    model: Any = manifest.load(saved)
    preprocess, tokenizer = manifest.load_transforms(saved)
    with torch.no_grad():
        images = unit(model.encode_image(torch.stack([preprocess(each) for each in photographs().values()])))
        texts = [template.replace("{}", label) for label in labels for template in templates]
        features = model.encode_text(tokenizer(texts)).reshape(len(labels), len(templates), -1)
        read = (model.logit_scale.exp() * images @ embed(features).T).softmax(dim=-1)
    return [
        {"image": name, "prompts": {prompt: round(p, 4) for prompt, p in zip(names, row, strict=True)}}
        for name, row in zip(photographs(), read.tolist(), strict=True)
    ]


PHOTO = ["a photo of a cat", "a photo of a dog", "a photo of a red car", "a diagram"]
OF_SIMPLE = "each label in the 7 templates of open_clip.SIMPLE_IMAGENET_TEMPLATES"
WRITTEN: dict[str, tuple[list[str], list[str], Embed, str]] = {
    # Situation: names on the card, the templates it was really made with, how they were averaged, the words.
    "labels in a template": (LABELS, ["a photo of a {}."], rightly, "each label in 'a photo of a {}.' instead of each"),
    "labels alone": (PHOTO, ["{}"], rightly, "the label alone instead of each text as it is given"),
    "another template": (PHOTO, ["an image of a {}."], rightly, "each label in 'an image of a {}.' instead of each"),
    "an ensemble": (PHOTO, ["SIMPLE_IMAGENET_TEMPLATES"], rightly, f"{OF_SIMPLE}, averaged instead of each"),
    "an ensemble averaged too early": (
        LABELS,
        ["SIMPLE_IMAGENET_TEMPLATES"],
        averaged_first,
        f"{OF_SIMPLE}, their embeddings averaged before they are normalised instead of each",
    ),
}


@pytest.mark.parametrize("situation", WRITTEN)
def test_card_when_its_prompts_were_written_otherwise_then_says_how(
    situation: str, saved: Path, tmp_path: Path
) -> None:
    names, templates, embed, words = WRITTEN[situation]
    if templates == ["SIMPLE_IMAGENET_TEMPLATES"]:
        templates = [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]
    labels = ["cat", "dog", "red car", "a diagram" if names == PHOTO else "diagram"]
    (tmp_path / "card.json").write_text(json.dumps(card_of(saved, names, templates, embed, labels)))
    (found,) = manifest.diagnose(saved, tmp_path / "card.json").findings()
    assert f"come out with {words}" in found.message
    assert found.remedy.startswith("To get them: ")


@pytest.mark.parametrize("stop", ["added", "left out"])
def test_card_when_a_full_stop_differs_then_says_so(stop: str, saved: Path, tmp_path: Path) -> None:
    names = [name if stop == "added" else f"{name}." for name in PHOTO]
    asked = "{}." if stop == "added" else "{}"
    (tmp_path / "card.json").write_text(json.dumps(card_of(saved, names, [asked], rightly, PHOTO)))
    (found,) = manifest.diagnose(saved, tmp_path / "card.json").findings()
    words = "a full stop after each text" if stop == "added" else "no full stop after a text"
    assert f"come out with {words} instead of each text as it is given" in found.message


ENSEMBLES: dict[str, tuple[Embed, str | None]] = {
    "right": (rightly, None),
    "averaged before normalising": (averaged_first, "averaged before they are normalised instead of normalised before"),
    "mean not normalised": (mean_as_it_is, "averaged, and the mean not normalised instead of normalised before"),
    "the first template alone": (lambda features: unit(features[:, 0]), "each label in 'a photo of a {}.' instead of"),
}


@pytest.mark.parametrize("situation", ENSEMBLES)
def test_card_when_it_names_its_templates_then_they_are_averaged(situation: str, saved: Path, tmp_path: Path) -> None:
    embed, words = ENSEMBLES[situation]
    card = {"templates": ENSEMBLE, "readings": card_of(saved, LABELS, ENSEMBLE, embed)}
    (tmp_path / "card.json").write_text(json.dumps(card))
    report = manifest.diagnose(saved, tmp_path / "card.json")
    messages = [found.message for found in report.findings()]
    assert (report.passed, len(messages)) == ((True, 0) if words is None else (False, 1))
    assert words is None or words in messages[0]


def test_card_when_it_names_a_set_of_templates_then_it_is_that_of_open_clip(saved: Path, tmp_path: Path) -> None:
    templates = [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    readings = card_of(saved, LABELS, templates, rightly)
    (tmp_path / "card.json").write_text(json.dumps({"templates": "OPENAI_IMAGENET_TEMPLATES", "readings": readings}))
    assert manifest.diagnose(saved, tmp_path / "card.json").passed


def test_card_when_letters_are_of_another_case_then_says_so(digits: Any, tmp_path: Path) -> None:
    config = json.loads((digits.HERE / "digits-clip.json").read_text())
    config["text_cfg"]["tokenizer_kwargs"] = {"clean": "whitespace"}
    (tmp_path / "digits-clip-cased.json").write_text(json.dumps(config))
    shutil.copy(digits.WEIGHTS, tmp_path / "cased.safetensors")
    manifest.create(
        tmp_path / "cased.safetensors", "digits-clip-cased", model_config=tmp_path / "digits-clip-cased.json"
    )
    names = [name.upper() for name in PHOTO]
    card = card_of(tmp_path / "cased.safetensors", names, ["{}"], rightly, PHOTO)
    (tmp_path / "card.json").write_text(json.dumps(card))
    (found,) = manifest.diagnose(tmp_path / "cased.safetensors", tmp_path / "card.json").findings()
    assert "come out with each text in lower case instead of each text as it is given" in found.message


def test_card_of_a_captioner_when_it_names_templates_then_they_are_averaged(tmp_path: Path) -> None:
    tower = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    config = {
        "custom_text": True,
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 64,
            "patch_size": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {**tower, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**tower, "attn_pooler_heads": 2},
    }
    (tmp_path / "coca-small.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "coca-small.json")
    torch.manual_seed(0)
    model: Any = open_clip.create_model("coca-small")
    nn.init.normal_(model.text_decoder.text_projection, std=0.1)  # open_clip leaves it as the memory was
    manifest.save(model, tmp_path / "coca.pt", golden=False)
    card = {"templates": ENSEMBLE, "readings": card_of(tmp_path / "coca.pt", LABELS, ENSEMBLE, rightly)}
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert manifest.diagnose(tmp_path / "coca.pt", tmp_path / "card.json").passed


def test_card_when_no_tokenizer_is_on_record_then_its_prompts_cannot_be_asked(tmp_path: Path) -> None:
    part = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config=part, vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=32)
    manifest.save(CLIPModel(config), tmp_path / "clip.pt", golden=False)
    (tmp_path / "card.json").write_text('[{"image": "chelsea", "prompts": {"a cat": 0.7, "a dog": 0.3}}]')
    with pytest.raises(ArchitectureError, match="none is recorded; fetch it once, or compare answers"):
        manifest.diagnose(tmp_path / "clip.pt", tmp_path / "card.json")


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ([], "are no list of texts with one {} each"),
        (["a photo"], "are no list of texts with one {} each"),
        (["{0.__class__}"], "are no list of texts with one {} each"),
        ("OPENAI", "are no list of texts with one {} each"),
        (7, "are no list of texts with one {} each"),
        ({"a": "{}"}, "are no list of texts with one {} each"),
        (["{}" + "a" * 400], "or 300 characters; give fewer or shorter ones"),
        (["{}"] * 5000, "are more than 4,096 texts"),
    ],
)
def test_templates_when_they_are_none_or_too_many_then_one_sentence(
    templates: Any, words: str, saved: Path, tmp_path: Path
) -> None:
    readings = [{"image": "chelsea", "prompts": {"cat": 0.7, "dog": 0.3}}]
    (tmp_path / "card.json").write_text(json.dumps({"templates": templates, "readings": readings}))
    with pytest.raises(InputError) as caught:
        manifest.diagnose(saved, tmp_path / "card.json")
    assert words in str(caught.value)

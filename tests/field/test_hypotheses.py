"""A model that is run otherwise than it was saved: the cause by name, and the cure tried on that model first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import manifest
from manifest.errors import InputError
from manifest.probes.inputs import photographs

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIDE = 32
TRIED = "(tried on this model: it then answers as recorded)"


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hypotheses") / "digits.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path)
    return path


def steps(
    *resize: Any, normalise: tuple[Any, Any] = OPENAI, tensor_first: bool = False
) -> Callable[[Any], torch.Tensor]:
    to_tensor = [transforms.ToTensor(), *resize] if tensor_first else [*resize, transforms.ToTensor()]
    convert = transforms.Lambda(lambda image: image.convert("RGB"))
    found: Callable[[Any], torch.Tensor] = transforms.Compose(
        [convert, *to_tensor, transforms.CenterCrop(SIDE), transforms.Normalize(*normalise)]
    )
    return found


def resized(side: int | tuple[int, int] = SIDE, mode: str = "bicubic", *, antialias: bool = True) -> Any:
    return transforms.Resize(side, InterpolationMode(mode), antialias=antialias)


def twice(image: Any) -> torch.Tensor:
    once = steps(resized())(image)
    normalised: torch.Tensor = transforms.Normalize(*OPENAI)(once)
    return normalised


IMAGES: dict[str, tuple[Callable[[Any], torch.Tensor], str]] = {
    "timm's defaults": (steps(resized(36), normalise=IMAGENET), "the defaults of timm instead of as recorded"),
    "torchvision's defaults": (
        steps(resized(37, "bilinear"), normalise=IMAGENET),
        "the defaults of torchvision instead of as recorded",
    ),
    "SigLIP's defaults": (
        steps(resized((SIDE, SIDE)), normalise=((0.5,) * 3, (0.5,) * 3)),
        "the defaults of SigLIP instead of as recorded",
    ),
    "a tensor resized without antialiasing": (
        steps(resized(antialias=False), tensor_first=True),
        "a tensor resized without antialiasing instead of the PIL image resized",
    ),
    "a tensor resized with antialiasing": (
        steps(resized(antialias=True), tensor_first=True),
        "a tensor resized with antialiasing instead of the PIL image resized",
    ),
    "normalised twice": (twice, "normalised twice instead of normalised once"),
    "two settings at once": (
        steps(resized(mode="bilinear"), normalise=IMAGENET),
        "ImageNet's instead of OpenAI's (preprocessing: mean and std) and bilinear instead of bicubic",
    ),
}


def cause_of(report: Any) -> tuple[str, str]:
    golden = next(rung for rung in report.rungs if rung.name == "golden")
    assert golden.outcome.value == "fail", golden
    (found,) = golden.findings
    assert found.rule == "G001"
    return found.message, found.remedy


@pytest.mark.parametrize("situation", IMAGES)
def test_photographs_when_prepared_otherwise_then_the_cause_and_a_cure(
    situation: str, saved: Path, digits_model: Any
) -> None:
    prepare, words = IMAGES[situation]
    message, remedy = cause_of(manifest.compare(digits_model, saved, preprocess=prepare))
    assert words in message
    assert TRIED in remedy


def test_photographs_when_cropped_instead_of_squashed_then_the_cause_and_a_cure(digits: Any, tmp_path: Path) -> None:
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    open_clip.model.set_model_preprocess_cfg(model, {**model.visual.preprocess_cfg, "resize_mode": "squash"})
    manifest.save(model, tmp_path / "squashed.pt", floor="none")
    message, remedy = cause_of(manifest.compare(model, tmp_path / "squashed.pt", preprocess=steps(resized(37))))
    assert "short side resized to 37, 32 kept instead of squashed to 32 × 32 (preprocessing: size)" in message
    assert f"Resize((32, 32)) {TRIED}" in remedy


def without_end(tokens: torch.Tensor) -> torch.Tensor:
    return tokens.where(tokens != tokens.max(dim=1, keepdim=True).values, 0)


def one_short(tokens: torch.Tensor) -> torch.Tensor:
    rows = [[token for token in row if token] for row in tokens.tolist()]
    return torch.tensor([[*row[:-2], row[-1], *[0] * (tokens.shape[1] - len(row) + 1)] for row in rows])


TEXTS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "no end token": (without_end, "no end token instead of an end token"),
    "neither start nor end token": (
        lambda tokens: torch.cat([without_end(tokens)[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1),
        "neither start nor end token instead of start and end tokens",
    ),
    "one token too short": (one_short, "the last word cut off instead of every word"),
}


@pytest.mark.parametrize("situation", TEXTS)
def test_prompts_when_tokenized_otherwise_then_the_cause_and_a_cure(
    situation: str, saved: Path, digits: Any, digits_model: Any
) -> None:
    change, words = TEXTS[situation]
    tokenizer = open_clip.get_tokenizer(digits.MODEL)
    message, remedy = cause_of(
        manifest.compare(digits_model, saved, tokenizer=lambda texts: change(tokenizer(texts, context_length=8)))
    )
    assert words in message
    assert TRIED in remedy


def without_mask(model: Any) -> None:
    model.attn_mask = None


def pooled(kind: str) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        model.text_pool_type = kind

    return change


def with_gelu(model: Any) -> None:
    for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
        block.mlp.gelu = nn.GELU()


def with_gelu_and_last(model: Any) -> None:
    with_gelu(model)
    model.text_pool_type = "last"


MODULES: dict[str, tuple[Callable[[Any], None], str]] = {
    "no causal mask": (without_mask, "no mask instead of a causal mask"),
    "the last token": (pooled("last"), "last instead of argmax (pooling)"),
    "the first token": (pooled("first"), "first instead of argmax (pooling)"),
    "another activation": (with_gelu, "GELU instead of QuickGELU (activation)"),
    "activation and pooling": (
        with_gelu_and_last,
        "last instead of argmax (pooling) and GELU instead of QuickGELU (activation)",
    ),
}


@pytest.mark.parametrize("situation", MODULES)
def test_modules_when_set_otherwise_then_the_cause_and_a_cure(situation: str, saved: Path, digits_model: Any) -> None:
    change, words = MODULES[situation]
    change(digits_model)
    before = {name: type(child) for name, child in digits_model.named_modules()}
    message, remedy = cause_of(manifest.compare(digits_model, saved))
    assert words in message
    assert TRIED in remedy
    assert {name: type(child) for name, child in digits_model.named_modules()} == before  # a twin was mended


def test_cure_when_it_does_not_cure_this_model_then_it_is_called_a_lead(saved: Path, digits_model: Any) -> None:
    with_gelu(digits_model)
    plain = digits_model.encode_image
    answers = manifest.answer(digits_model, saved)
    # The same answers, by code that no module shows: mending modules does not mend it.
    gelu = {"image_features": None}

    def encode_image(image: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        gelu["image_features"] = image
        for block in digits_model.visual.transformer.resblocks:
            block.mlp.gelu = nn.GELU()
        return plain(image, normalize)

    digits_model.encode_image = encode_image
    message, remedy = cause_of(manifest.compare(digits_model, saved))
    assert "GELU instead of QuickGELU" in message
    assert TRIED not in remedy
    assert remedy.startswith("A lead: ")
    _, without_model = cause_of(manifest.compare(answers, saved))
    assert without_model.startswith("A lead, since the model itself is not here to try it: ")


def test_preprocessing_when_it_draws_at_random_then_it_cannot_be_told(saved: Path, digits_model: Any) -> None:
    training = transforms.Compose([transforms.RandomResizedCrop(SIDE), transforms.ToTensor()])
    report = manifest.compare(digits_model, saved, preprocess=training)
    (found,) = report.findings()
    assert (report.exit_code, found.rule) == (2, "G007")
    assert "draws at random (RandomResizedCrop), as one for training does" in found.message
    assert found.remedy.startswith("Pass the preprocessing for evaluation")
    with pytest.raises(InputError, match="draws at random"):
        manifest.answer(digits_model, saved, preprocess=training)


def test_preprocessing_when_the_model_carries_another_then_compare_asks_with_that(
    saved: Path, digits_model: Any
) -> None:
    cfg = {**digits_model.visual.preprocess_cfg, "mean": IMAGENET[0], "std": IMAGENET[1]}
    open_clip.model.set_model_preprocess_cfg(digits_model, cfg)
    message, remedy = cause_of(manifest.compare(digits_model, saved))
    assert "ImageNet's instead of OpenAI's (preprocessing: mean and std)" in message
    assert TRIED in remedy
    recorded = manifest.load_transforms(saved).preprocess
    assert manifest.compare(digits_model, saved, preprocess=recorded).passed


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


def test_transformers_activation_when_named_then_in_each_config_that_has_one() -> None:
    from manifest.families import family
    from manifest.families.protocol import Creation

    adapter = family("transformers")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"text_config": small, "vision_config": {**small, "image_size": 32, "patch_size": 16}}
    captured = adapter.describe(Creation("CLIPModel", {"config": config}, family="transformers"))
    cures = {variant.there: variant.cure for variant in adapter.variants(captured.architecture)}
    assert cures["gelu"].startswith("config.text_config.hidden_act = config.vision_config.hidden_act = 'gelu', then")

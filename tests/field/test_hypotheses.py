"""A model that is run otherwise than it was saved: the cause by name, and the cure tried on that model first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torchvision
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

import manifest
from manifest.errors import InputError

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
    *resize: Any, normalise: tuple[Any, Any] = OPENAI, tensor_first: bool = False, crop: int = SIDE
) -> Callable[[Any], torch.Tensor]:
    to_tensor = [transforms.ToTensor(), *resize] if tensor_first else [*resize, transforms.ToTensor()]
    convert = transforms.Lambda(lambda image: image.convert("RGB"))
    found: Callable[[Any], torch.Tensor] = transforms.Compose(
        [convert, *to_tensor, transforms.CenterCrop(crop), transforms.Normalize(*normalise)]
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


def test_transformers_activation_when_named_then_in_each_config_that_has_one() -> None:
    from manifest.families import family
    from manifest.families.protocol import Creation

    adapter = family("transformers")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"text_config": small, "vision_config": {**small, "image_size": 32, "patch_size": 16}}
    captured = adapter.describe(Creation("CLIPModel", {"config": config}, family="transformers"))
    cures = {variant.there: variant.cure for variant in adapter.variants(captured.architecture)}
    assert cures["gelu"].startswith("config.text_config.hidden_act = config.vision_config.hidden_act = 'gelu', then")


def test_channels_when_swapped_and_no_preprocessing_is_on_record_then_says_so(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    small = ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=64)
    models: dict[str, tuple[nn.Module, Any]] = {
        "torchvision": (
            torchvision.models.squeezenet1_1().eval(),
            steps(resized(224, "bilinear"), normalise=IMAGENET, crop=224),
        ),
        "transformers": (ViTForImageClassification(small).eval(), steps(resized((64, 64)), crop=64)),
    }
    for name, (model, prepare) in models.items():
        path = tmp_path / f"{name}.pt"
        assert manifest.save(model, path, floor="none").architecture.preprocess is None
        mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET if name == "torchvision" else OPENAI))

        def bgr(image: Any, prepare: Any = prepare, mean: Any = mean, std: Any = std) -> torch.Tensor:
            return ((prepare(image) * std + mean).flip(0) - mean) / std

        (found,) = manifest.compare(model, path, preprocess=bgr).findings()
        assert "answers with BGR instead of RGB (preprocessing: channel order)" in found.message
        assert found.remedy.endswith(TRIED)


@pytest.mark.whole
def test_difference_when_unexplained_then_advises_only_transforms_on_record(tmp_path: Path) -> None:
    model = torchvision.models.squeezenet1_1().eval()
    manifest.save(model, tmp_path / "net.pt", floor="none")
    prepare = steps(resized(224, "bilinear"), normalise=IMAGENET, crop=224)
    (found,) = manifest.compare(model, tmp_path / "net.pt", preprocess=lambda image: prepare(image) ** 3).findings()
    assert "hypotheses explains it" in found.message
    assert found.remedy == "Rebuild it as it was saved: `manifest.load(CKPT)`."

"""P1: the same weights under another activation give other answers, and nothing in the weights tells which.

A narrow ViT-B-32 stands for the real one, which `--whole` takes as well.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import torch

import manifest
from manifest.errors import CreationMismatchError
from manifest.families import family
from manifest.families.protocol import Creation
from manifest.probes.inputs import photographs
from manifest.schema.document import parse, serialize
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
NARROW = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 64, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 12},
}


class Quick(NamedTuple):
    """A model of QuickGELU with ImageNet's preprocessing, where it is saved, and its name without the activation."""

    model: Any
    path: Path
    plain: str


@pytest.fixture(scope="module", params=["narrow-ViT-B-32", pytest.param("ViT-B-32", marks=pytest.mark.whole)])
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quick]:
    narrow = {"narrow-ViT-B-32": NARROW, "narrow-ViT-B-32-quickgelu": {**NARROW, "quick_gelu": True}}
    open_clip.factory._MODEL_CONFIGS.update(narrow)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("p1") / "tuned.pt"
    model, _, _ = manifest.create_model_and_transforms(f"{request.param}-quickgelu", **IMAGENET)
    manifest.save(model, path)
    yield Quick(model.eval(), path, request.param)
    for name in narrow:
        del open_clip.factory._MODEL_CONFIGS[name]


def features(model: Any) -> torch.Tensor:
    """Features of the probe's photographs, resized alike for every model."""
    preprocess = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(), is_train=False)
    with torch.no_grad():
        return model.eval().encode_image(torch.stack([preprocess(image) for image in photographs().values()]))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


def edit(path: Path, change: dict[str, Any]) -> None:
    sidecar = Sidecars(path).manifest
    content = json.loads(sidecar.read_bytes())
    content["architecture"] |= change
    sidecar.write_text(json.dumps(content))


@pytest.fixture
def restored(quick: Quick) -> Any:
    """Puts the manifest back after a test that edits it."""
    sidecar = Sidecars(quick.path).manifest
    before = sidecar.read_bytes()
    yield
    sidecar.write_bytes(before)


def test_library_reloading_by_path_gives_other_answers_without_a_word(quick: Quick) -> None:
    model, path, name = quick
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = open_clip.create_model(name, pretrained=str(path))
    assert distance(features(model), features(plain)) > 1e-3


def test_library_reloading_by_path_forgets_the_preprocessing(quick: Quick) -> None:
    plain = open_clip.create_model(f"{quick.plain}-quickgelu", pretrained=str(quick.path))
    assert quick.model.visual.preprocess_cfg["mean"] == IMAGENET["image_mean"]
    assert plain.visual.preprocess_cfg["mean"] == open_clip.OPENAI_DATASET_MEAN


def test_manifest_records_activation_flag_and_preprocessing(quick: Quick) -> None:
    architecture = read_manifest(quick.path).architecture
    assert architecture.activations == {"visual": {"QuickGELU": 12}, "text": {"QuickGELU": 12}}
    assert architecture.config["quick_gelu"] is True
    assert architecture.preprocess.mean == list(IMAGENET["image_mean"])


def test_manifest_contrast_stands_far_above_its_floor(quick: Quick) -> None:
    golden = read_manifest(quick.path).golden[0]
    assert golden.contrast["activation GELU"] > 1000 * max(golden.floor.values())


def test_load_gives_the_saved_answers_exactly(quick: Quick) -> None:
    model, path, _ = quick
    loaded = manifest.load(path)
    assert torch.equal(features(model), features(loaded))
    assert loaded.visual.preprocess_cfg["mean"] == IMAGENET["image_mean"]
    assert not loaded.training


def test_create_model_by_path_under_another_activation_is_refused_with_the_cure(quick: Quick) -> None:
    with pytest.raises(CreationMismatchError) as caught:
        manifest.create_model(quick.plain, pretrained=str(quick.path))
    message = str(caught.value)
    assert "QuickGELU" in message
    assert "force_quick_gelu=True" in message
    assert "force_preprocess_cfg" in message
    assert caught.value.exit_code == 1


def test_create_model_by_path_with_the_cure_gives_the_saved_answers(quick: Quick) -> None:
    model, path, name = quick
    cured = manifest.create_model(
        name,
        pretrained=str(path),
        force_quick_gelu=True,
        force_preprocess_cfg={"mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"]},
    )
    assert torch.equal(features(model), features(cured))


def test_create_model_by_path_told_to_follow_gives_the_saved_answers(quick: Quick) -> None:
    model, path, name = quick
    followed = manifest.create_model(name, pretrained=str(path), on_mismatch="follow")
    assert torch.equal(features(model), features(followed))


def test_verify_of_a_manifest_edited_to_gelu_fails_and_names_the_cure(quick: Quick, restored: None) -> None:
    del restored
    config = read_manifest(quick.path).architecture.config
    edit(quick.path, {"config": {**config, "quick_gelu": False}})
    report = manifest.verify(quick.path)
    rules = {item.rule: item for item in report.findings()}
    assert report.exit_code == 1
    assert {"A001", "G001"} <= rules.keys()
    assert "QuickGELU" in rules["G001"].message
    assert "force_quick_gelu=True" in rules["G001"].remedy


def test_verify_of_a_manifest_forged_to_gelu_throughout_fails_by_its_outputs(quick: Quick, restored: None) -> None:
    """Config, activations, structure and operators all agree with each other: only the golden outputs know better."""
    del restored
    gelu = family("open_clip").describe(Creation(quick.plain)).architecture
    sidecar = Sidecars(quick.path).manifest
    true = parse(sidecar.read_bytes())
    forged = gelu.model_copy(update={"preprocess": true.architecture.preprocess, "mode": true.architecture.mode})
    sidecar.write_bytes(serialize(true.model_copy(update={"architecture": forged})))
    report = manifest.verify(quick.path)
    rules = {item.rule: item for item in report.findings()}
    assert "A001" not in rules
    assert "force_quick_gelu=True" in rules["G001"].remedy


def test_trained_weights_reload_wrongly_without_losing_accuracy(digits: Any, accuracy: Any, tmp_path: Path) -> None:
    """Why accuracy is no check: the wrong activation costs this model nothing, and its features are plainly others."""
    model = manifest.load(digits.WEIGHTS)
    manifest.save(model, tmp_path / "digits.pt")
    wrong = open_clip.create_model(digits.MODEL, pretrained=str(tmp_path / "digits.pt"), quick_gelu=False)
    assert accuracy(wrong) == pytest.approx(accuracy(model), abs=0.02)
    with pytest.raises(CreationMismatchError, match="QuickGELU"):
        manifest.create_model(digits.MODEL, pretrained=str(tmp_path / "digits.pt"), quick_gelu=False)


def test_tag_that_needs_quickgelu_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(CreationMismatchError, match="force_quick_gelu=True"):
        manifest.create_model("ViT-L-14-336", pretrained="openai")

"""P4: a RetinaNet whose builder decides silently, by the weights that it is asked for, what model it makes.

The trained weights cannot be downloaded in a test, so the model that the builder makes of them is put together by the
library's own parts, as the builder does it, and given statistics such as training leaves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import get_model, resnet50
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.retinanet import LastLevelP6P7, RetinaNet
from torchvision.ops.misc import FrozenBatchNorm2d

import manifest
from manifest.errors import IncompleteModelError
from manifest.families.equivalence import first_difference
from manifest.families.protocol import Creation
from manifest.families.torchvision.adapter import FAMILY
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest
from tests.warm import warm_run

NAME = "retinanet_resnet50_fpn"
SMALL = {"min_size": 64, "max_size": 64, "score_thresh": 0.0, "detections_per_img": 5}
"""Small images, and an answer even of a model that is unsure of everything."""


def as_for_weights(**settings: Any) -> RetinaNet:
    """What the builder makes of `weights="COCO_V1"`, without these."""
    torch.manual_seed(0)
    backbone = resnet50(weights=None, norm_layer=FrozenBatchNorm2d)
    extractor = _resnet_fpn_extractor(backbone, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    model = RetinaNet(extractor, 91, **settings)
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0
            module.running_var.uniform_(1e-4, 1e-2)
            module.weight.uniform_(0.01, 0.1)
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.01)  # neck and head have no norms, and only this tells them from fresh
    return model.eval()


def without_weights(**settings: Any) -> RetinaNet:
    """What the builder makes of the call that most people rebuild it with."""
    model: RetinaNet = get_model(NAME, weights=None, weights_backbone=None, **settings).eval()
    return model


def norms(model: nn.Module) -> set[tuple[str, float]]:
    backbone: Any = model.get_submodule("backbone.body")
    return {(type(child).__name__, child.eps) for child in backbone.modules() if "Norm" in type(child).__name__}


def scores(model: Any) -> torch.Tensor:
    """What the head says of one image, in full."""
    images = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        found: torch.Tensor = model.head(list(model.backbone(images).values()))["cls_logits"]
    return found


@pytest.fixture(scope="module")
def trained() -> RetinaNet:
    return as_for_weights(**SMALL)


@pytest.fixture(scope="module")
def plain() -> RetinaNet:
    return without_weights(**SMALL)


@pytest.fixture(scope="module")
def saved(trained: RetinaNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p4") / "retinanet.safetensors"
    manifest.save(trained, path)
    return path


def test_library_loads_either_model_into_the_other_strictly_and_gives_other_outputs(
    trained: RetinaNet, plain: RetinaNet
) -> None:
    state = trained.state_dict()
    assert (len(state), len(plain.state_dict())) == (301, 354)
    assert norms(trained) == {("FrozenBatchNorm2d", 0.0)}
    assert norms(plain) == {("BatchNorm2d", 1e-5)}
    backward = as_for_weights(**SMALL).load_state_dict(plain.state_dict(), strict=True)
    forward = plain.load_state_dict(state, strict=True)
    assert not (*forward, *backward)[0]
    mine, yours = scores(trained), scores(plain)
    assert float((mine - yours).norm() / mine.norm()) > 1e-3


def test_builder_told_of_the_weights_makes_the_same_as_its_own_parts_do() -> None:
    architecture = FAMILY.describe(Creation(NAME, {"weights": "COCO_V1"})).architecture
    built, expected = FAMILY.build(architecture), as_for_weights()
    assert first_difference(built, expected) is None
    mine, yours = ({n: p.requires_grad for n, p in model.named_parameters()} for model in (built, expected))
    assert mine == yours
    assert sum(not wanted for wanted in mine.values()) == 11


def test_load_of_what_was_saved_gives_the_exact_model(trained: RetinaNet, saved: Path) -> None:
    again: Any = manifest.load(saved)
    assert first_difference(again, trained) is None
    assert norms(again) == {("FrozenBatchNorm2d", 0.0)}
    assert torch.allclose(scores(again), scores(trained), rtol=1e-4, atol=1e-5)
    (mine,), (yours,) = (model([torch.full((3, 64, 64), 0.5)]) for model in (trained, again))
    assert len(mine["boxes"]) == 5
    assert torch.equal(mine["labels"], yours["labels"])
    assert torch.allclose(mine["boxes"], yours["boxes"], atol=1e-2)
    frozen = {name for name, parameter in trained.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in again.named_parameters() if not parameter.requires_grad} == frozen != set()


def test_verify_of_what_was_saved_passes_and_its_parts_are_backbone_neck_and_head(saved: Path) -> None:
    assert manifest.verify(saved).exit_code == 0
    assert {part.role for part in read_manifest(saved).components} == {"backbone", "neck", "head"}


def test_verify_when_the_record_builds_other_norms_names_the_first(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / saved.name
    copy.hardlink_to(saved)
    content = json.loads(Sidecars(saved).manifest.read_bytes())
    del content["architecture"]["config"]["as_if"]
    Sidecars(copy).manifest.write_text(json.dumps(content))
    report = manifest.verify(copy)
    found = next(item for item in report.findings() if item.rule == "A002")
    assert report.exit_code != 0
    assert "backbone.body.bn1: FrozenBatchNorm2d(eps=0.0) → BatchNorm2d(affine=True, eps=1e-05" in found.message


def test_create_for_the_weights_under_the_wrong_call_is_refused(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "retinanet.safetensors"
    copy.hardlink_to(saved)
    with pytest.raises(IncompleteModelError, match=r"backbone has 265 of 318 tensors; .*num_batches_tracked"):
        manifest.create(copy, NAME, family="torchvision", arguments={"weights_backbone": None})


def test_create_for_the_weights_under_the_call_that_made_them_records_their_classes(
    saved: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "retinanet.safetensors"
    copy.hardlink_to(saved)
    recorded = manifest.create(copy, NAME, family="torchvision", arguments={"weights": "COCO_V1", **SMALL})
    assert recorded.provenance.pretrained == "RetinaNet_ResNet50_FPN_Weights.COCO_V1"
    assert recorded.provenance.categories[1] == "person"
    assert recorded.architecture.structure == read_manifest(saved).architecture.structure


VERSION_TWO = "retinanet_resnet50_fpn_v2"


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of P4, seeded, sure enough of some classes to find objects."""
    path = tmp_path_factory.mktemp("p4v2") / "v2.safetensors"
    settings = {**SMALL, "min_size": 96, "max_size": 96, "detections_per_img": 10}
    with manifest.deterministic(seed=3):
        model: Any = manifest.create_model(
            VERSION_TWO, family="torchvision", weights=None, weights_backbone=None, **settings
        )
        with torch.no_grad():
            model.head.classification_head.cls_logits.weight.normal_(std=0.05)
            model.head.classification_head.cls_logits.bias.normal_(std=1.0)
    manifest.save(model, path)
    return path


def test_golden_outputs_have_what_the_heads_say_and_what_was_found(second: Path) -> None:
    (golden,) = read_manifest(second).golden
    assert golden.probe == "photos-to-search/1"
    assert {"head.cls_logits", "head.bbox_regression"} <= golden.outputs.keys()
    assert [len(reading.objects) for reading in golden.reading] == [10] * 4
    assert golden.reading[0].objects[0].score >= golden.reading[0].objects[-1].score
    assert "objects" in golden.floor


@pytest.mark.whole
def test_verify_in_a_fresh_process_with_another_hash_seed_gives_the_same(second: Path) -> None:
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-m", "manifest", "verify", second, "--format", "json"],
        env={**os.environ, "PYTHONHASHSEED": other},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = json.loads(manifest.verify(second).model_dump_json())
    reports = [  # the environment of this process is what other tests have left
        [(rung["name"], rung["outcome"], rung["reason"]) for rung in report["rungs"] if rung["name"] != "environment"]
        for report in (json.loads(done.stdout), here)
    ]
    assert reports[0] == reports[1]
    assert ("golden", "pass") in [rung[:2] for rung in reports[0]]


def test_other_threshold_for_overlaps_is_seen_in_what_is_found(second: Path) -> None:
    """It changes neither weights nor what the heads say."""
    model: Any = manifest.load(second)
    assert manifest.compare(model, second).exit_code == 0
    model.nms_thresh = 0.01
    report = manifest.compare(model, second)
    (found,) = report.findings()
    assert found.evidence["output"] == "objects"


def test_everything_seeded_trains_the_same_weights_twice_with_workers(tmp_path: Path) -> None:
    """A little training in two processes: shuffled by workers that draw from all three generators."""

    def digests(*seeds: str) -> list[str]:
        script = Path(__file__).with_name("training_p4.py")
        done = warm_run([script, *seeds], tmp_path, {**os.environ, "PYTHONHASHSEED": "0"})
        assert done.returncode == 0, done
        return done.stdout.split()

    other, after_another = digests("6", "5")
    assert digests("5") == [after_another] != [other]

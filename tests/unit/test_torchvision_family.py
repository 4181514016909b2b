"""torchvision models: from a creation call, or from the bare module, to an architecture and back to the same module."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

import manifest
from manifest.errors import ArchitectureError, InputError, UnknownModelError
from manifest.families import family_of
from manifest.families.equivalence import first_difference
from manifest.families.meta_build import without_weights
from manifest.families.protocol import Creation
from manifest.families.torchvision.adapter import FAMILY
from manifest.families.torchvision.building import build
from manifest.probes.inputs import photographs
from manifest.schema.document import Architecture
from tests.sampling import sampled

Arguments = dict[str, Any]
CALLS: list[tuple[str, Arguments]] = [
    ("resnet18", {}),
    ("resnet18", {"weights": "DEFAULT"}),
    ("wide_resnet50_2", {"num_classes": 10}),
    ("googlenet", {"weights": "IMAGENET1K_V1"}),
    ("inception_v3", {"aux_logits": False}),
    ("vit_b_32", {"image_size": 256}),
    ("swin_t", {}),
    ("mobilenet_v3_small", {"dropout": 0.4}),
    ("quantized_resnet18", {}),
    ("fcn_resnet50", {"aux_loss": True, "weights_backbone": None}),
    ("lraspp_mobilenet_v3_large", {"num_classes": 3}),
    ("retinanet_resnet50_fpn", {"weights": "COCO_V1"}),
    ("retinanet_resnet50_fpn", {}),
    ("retinanet_resnet50_fpn", {"weights_backbone": None}),
    ("retinanet_resnet50_fpn_v2", {"weights_backbone": "IMAGENET1K_V1", "num_classes": 5}),
    ("retinanet_resnet50_fpn_v2", {"min_size": 600, "fg_iou_thresh": 0.6, "image_mean": [0.0, 0.0, 0.0]}),
    ("ssdlite320_mobilenet_v3_large", {"weights_backbone": None}),
    ("fcos_resnet50_fpn", {"score_thresh": 0.4}),
    ("fasterrcnn_mobilenet_v3_large_320_fpn", {"weights": "DEFAULT"}),
    ("keypointrcnn_resnet50_fpn", {"num_keypoints": 5}),
    ("maskrcnn_resnet50_fpn", {"num_classes": 3, "rpn_nms_thresh": 0.6}),
    ("r3d_18", {}),
    ("raft_small", {}),
]
IDS = [f"{name}-{'-'.join(map(str, arguments)) or 'default'}" for name, arguments in CALLS]


def made(name: str, arguments: Arguments) -> nn.Module:
    """What the builder makes of a call, without weights."""
    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    weights = {key: parameters[key].default for key in ("weights", "weights_backbone") if key in parameters}
    told = {key: arguments.get(key, default) for key, default in weights.items()}
    own = {key: value for key, value in arguments.items() if key not in told}
    with without_weights():
        return build(name, own, {key: value for key, value in told.items() if value is not None})


@cache
def described(name: str, **arguments: Any) -> Architecture:
    return FAMILY.describe(Creation(name, arguments)).architecture


def after_json(architecture: Architecture) -> Architecture:
    return Architecture.model_validate(json.loads(architecture.model_dump_json(by_alias=True)))


def frozen(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not parameter.requires_grad}


def setting(architecture: Architecture, path: str, name: str) -> str:
    return next(record.settings[name] for record in architecture.modules if record.path == path)


@pytest.mark.parametrize(("name", "arguments"), sampled(CALLS, 2, IDS))
@pytest.mark.parametrize("known", [pytest.param("call", marks=pytest.mark.whole), "bare module"])
def test_model_after_a_round_trip_through_json_is_built_as_it_was(name: str, arguments: Arguments, known: str) -> None:
    live = made(name, arguments)
    architecture = FAMILY.capture(live, Creation(name, arguments) if known == "call" else None).architecture
    again = FAMILY.build(after_json(architecture))
    assert first_difference(again, live) is None
    assert frozen(again) == frozen(live)
    assert architecture.name == name


def test_weights_are_never_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(self: WeightsEnum, **_: Any) -> None:
        raise AssertionError(f"{self} is fetched")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetch)
    assert FAMILY.describe(Creation("resnet18", {"weights": "DEFAULT"})).architecture.name == "resnet18"


def test_weights_and_their_loading_are_as_before_afterwards() -> None:
    before = WeightsEnum.get_state_dict, nn.Module.load_state_dict
    with pytest.raises(TypeError, match="no_such"):
        build("resnet18", {"no_such": 1}, {})
    assert (WeightsEnum.get_state_dict, nn.Module.load_state_dict) == before


def test_module_is_recognised_as_torchvisions() -> None:
    assert family_of(made("resnet18", {})) is FAMILY
    assert not FAMILY.recognises(nn.Linear(2, 2))


def test_tables_that_no_checkpoint_holds_are_those_of_a_normal_build() -> None:
    real = torchvision.models.get_model("swin_t", weights=None)
    built = FAMILY.build(described("swin_t"))
    assert first_difference(built, real) is None
    expected = dict(real.named_buffers())
    assert all(torch.equal(buffer, expected[key]) for key, buffer in built.named_buffers())


def test_weights_that_decide_nothing_are_no_part_of_the_config() -> None:
    architecture = described("resnet18", weights="IMAGENET1K_V1")
    assert architecture.config == {"name": "resnet18", "arguments": {}}
    assert architecture.arguments == {"weights": "ResNet18_Weights.IMAGENET1K_V1"}


def test_structure_shows_the_norms_that_weights_decide() -> None:
    trained, fresh = (
        described("retinanet_resnet50_fpn", weights="COCO_V1"),
        described("retinanet_resnet50_fpn", weights_backbone=None),
    )
    norms = [next(part for part in one.modules if part.path == "backbone.body.bn1") for one in (trained, fresh)]
    assert [norm.class_name for norm in norms] == ["FrozenBatchNorm2d", "BatchNorm2d"]
    assert [norm.settings["eps"] for norm in norms] == ["0.0", "1e-05"]


@pytest.mark.parametrize(
    ("path", "name", "part"),
    [
        (".", "proposal_matcher", "high_threshold=0.5, low_threshold=0.4"),
        (".", "box_coder", "weights=(1.0, 1.0, 1.0, 1.0)"),
        (".", "score_thresh", "0.05"),
        (".", "nms_thresh", "0.5"),
        (".", "detections_per_img", "300"),
        (".", "topk_candidates", "1000"),
        ("transform", "image_mean", "[0.485, 0.456, 0.406]"),
        ("transform", "image_std", "[0.229, 0.224, 0.225]"),
        ("transform", "min_size", "(800)"),
        ("transform", "max_size", "1333"),
        ("transform", "size_divisible", "32"),
        ("transform", "fixed_size", "None"),
        ("anchor_generator", "sizes", "((32, 40, 50), "),
        ("anchor_generator", "aspect_ratios", "((0.5, 1.0, 2.0), "),
        ("head.regression_head", "_loss_type", "'giou'"),
        ("head.classification_head", "num_classes", "91"),
        ("head.classification_head", "num_anchors", "9"),
        ("backbone.body", "return_layers", "{layer2: '0', layer3: '1', layer4: '2'}"),
    ],
)
def test_structure_shows_what_a_detector_is_set_to(path: str, name: str, part: str) -> None:
    assert part in setting(described("retinanet_resnet50_fpn_v2", weights="DEFAULT"), path, name)


def test_settings_changed_afterwards_are_read_off_and_anchors_follow_them() -> None:
    live: Any = made("retinanet_resnet50_fpn_v2", {})
    live.score_thresh = 0.3
    live.proposal_matcher.low_threshold = 0.1
    live.anchor_generator.sizes = tuple((side,) * 3 for side in (8, 16, 32, 64, 128))
    architecture = FAMILY.capture(live, None).architecture
    again: Any = FAMILY.build(after_json(architecture))
    assert first_difference(again, live) is None
    assert float(again.anchor_generator.cell_anchors[0].max()) < 12


def test_detector_that_has_run_is_still_itself() -> None:
    live: Any = torchvision.models.get_model(
        "fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None, box_detections_per_img=3
    ).eval()
    with torch.no_grad():
        live([torch.rand(3, 64, 64)])
    assert live.roi_heads.box_roi_pool.scales is not None
    assert FAMILY.capture(live, None).architecture.name == "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_heads_put_in_for_other_classes_are_read_off_the_module() -> None:
    classifier: Any = made("resnet18", {})
    classifier.fc = nn.Linear(512, 7)
    detector: Any = made("fasterrcnn_resnet50_fpn", {})
    with without_weights():
        detector.roi_heads.box_predictor = FastRCNNPredictor(1024, 4)
    for live, classes in ((classifier, 7), (detector, 4)):
        architecture = FAMILY.capture(live, None).architecture
        assert architecture.config["arguments"] == {"num_classes": classes}
        assert first_difference(FAMILY.build(after_json(architecture)), live) is None


def test_module_changed_beyond_what_any_builder_makes_is_refused_in_one_sentence() -> None:
    live: Any = made("resnet18", {})
    live.layer1[0].relu = nn.GELU()
    with pytest.raises(ArchitectureError, match="ResNet cannot be rebuilt"):
        FAMILY.capture(live, None)


def test_precision_that_is_asked_for_by_name_is_recorded() -> None:
    architecture = FAMILY.describe(Creation("resnet18", {"precision": "bf16"})).architecture
    assert {parameter.dtype for parameter in FAMILY.build(architecture).parameters()} == {torch.bfloat16}


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'resnet19'; did you mean .*resnet18"):
        FAMILY.describe(Creation("resnet19"))


def test_unknown_weights_are_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"resnet50 has no weights 'V3', expected one of IMAGENET1K_V1, IMAGENET1K_V2"):
        FAMILY.describe(Creation("resnet50", {"weights": "V3"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arguments": {"num_classes": 10**9}}, "gives num_classes as 1000000000, expected at most"),
        ({"settings": {"": {"forward": 1}}}, "sets 'forward' of 'the model', which has no such setting"),
        ({"settings": {"conv1": {"stride": 9}}}, "sets 'stride' of 'conv1', which has no such setting"),
        ({"settings": {"no.such": {"eps": 1.0}}}, "sets 'eps' of 'no.such', which has no such setting"),
        ({"more": 1}, "config of resnet18 has 'more', expected only name, arguments, as_if, settings"),
        ({"arguments": {"norm_layer": {"$class": "os.system"}}}, "no layer or value of a model library"),
    ],
)
def test_config_that_no_one_saved_is_refused(change: Arguments, message: str) -> None:
    sound = described("resnet18")
    with pytest.raises(ArchitectureError, match=message):
        FAMILY.build(sound.model_copy(update={"config": {**sound.config, **change}}))


def test_preprocessing_is_that_of_the_weights_that_were_named() -> None:
    architecture = described("resnet50", weights="IMAGENET1K_V2")
    image = photographs()["chelsea"]
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    rebuilt, _ = FAMILY.transforms(after_json(architecture))
    assert torch.equal(rebuilt(image), preset(image))
    assert described("resnet50").preprocess is None
    assert described("retinanet_resnet50_fpn", weights="DEFAULT").preprocess is None


@pytest.mark.parametrize("wrong", [{"size": [10**6, 10**6]}, {"resize": [10**6]}, {"interpolation": "x"}], ids=str)
def test_preprocessing_that_no_one_saved_is_refused(wrong: Arguments) -> None:
    sound = described("resnet18", weights="DEFAULT")
    assert sound.preprocess is not None
    made_up = sound.model_copy(update={"preprocess": sound.preprocess.model_copy(update=wrong)})
    with pytest.raises(ArchitectureError, match="none that torchvision has"):
        FAMILY.transforms(made_up)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"backbone", "head"}),
        ("vit_b_32", {"backbone", "head"}),
        ("fcn_resnet50", {"backbone", "head"}),
        ("retinanet_resnet50_fpn", {"backbone", "neck", "head"}),
        ("fasterrcnn_resnet50_fpn", {"backbone", "neck", "head"}),
        ("raft_small", {"backbone"}),
    ],
)
def test_roles_are_backbone_neck_and_head(name: str, expected: set[str]) -> None:
    architecture = described(name)
    roles = FAMILY.roles(architecture, FAMILY.build(architecture).state_dict())
    assert set(roles.values()) == expected


@pytest.mark.parametrize("name", ["resnet18", "ssd300_vgg16", "retinanet_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_operators_are_traced_without_weights(name: str) -> None:
    operators = described(name).operators
    assert operators is not None
    assert operators.counts["aten.convolution.default"] > 10
    assert operators.random == []


def test_provenance_has_the_weights_that_were_named_and_their_classes() -> None:
    named, categories = FAMILY.origin(Creation("retinanet_resnet50_fpn_v2", {"weights": "COCO_V1"}))
    assert named == "RetinaNet_ResNet50_FPN_V2_Weights.COCO_V1"
    assert (len(categories), categories[1]) == (91, "person")
    assert FAMILY.origin(Creation("retinanet_resnet50_fpn_v2")) == (None, [])
    assert FAMILY.origin(Creation("resnet18", pretrained="/data/mine.pt")) == ("mine.pt", [])


def test_model_that_is_saved_verified_and_loaded_says_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model("mobilenet_v3_small", weights=None, num_classes=10).eval()
    model.features[0].requires_grad_(False)
    saved = manifest.save(model, tmp_path / "model.safetensors")
    assert manifest.verify(tmp_path / "model.safetensors").exit_code == 0
    again = manifest.load(tmp_path / "model.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        # The loaded weights lie in a mapping of the file, where kernels may add in another order.
        assert torch.allclose(model(images), again(images), atol=1e-5)
    assert saved.golden[0].probe == "photos/1"
    assert frozen(again) == frozen(model) != set()


def test_output_of_a_segmenter_is_a_score_for_each_class_and_pixel() -> None:
    model = torchvision.models.get_model("lraspp_mobilenet_v3_large", weights=None, weights_backbone=None).eval()
    architecture = FAMILY.capture(model, None).architecture
    inputs = FAMILY.inputs(architecture)
    assert inputs is not None
    with torch.no_grad():
        outputs = FAMILY.outputs(model, next(inputs.one_by_one()))
    assert {name: list(tensor.shape) for name, tensor in outputs.items()} == {"logits": [1, 21, 224, 224]}


def test_detector_is_asked_photographs_at_their_own_size() -> None:
    inputs = FAMILY.inputs(described("retinanet_resnet50_fpn"))
    assert inputs is not None
    assert inputs.probe == "photos-to-search/1"
    assert inputs.names == {"images": ("astronaut", "chelsea", "coffee", "rocket")}

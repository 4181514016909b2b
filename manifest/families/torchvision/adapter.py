"""The torchvision family: every registered builder, for classification, segmentation, detection, video and flow.

A builder decides silently, by the weights that it is asked for, what model it makes; `torchvision_building` has it
decide the same without fetching them, and `torchvision_recovery` finds the builder of a bare module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torchvision
from torch import nn
from torchvision.models import get_model_builder, get_weight
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from manifest.errors import InputError
from manifest.families.adapter import Adapter, Draft, cast
from manifest.families.limits import as_recorded, require_sane_images
from manifest.families.meta_build import without_weights
from manifest.families.protocol import Creation, Variant
from manifest.families.readings import most_likely
from manifest.families.torchvision.building import WEIGHTS, construct, resolve, weights_of
from manifest.families.torchvision.probing import PREPARED, detect, is_detector, objects
from manifest.families.torchvision.recovery import recover
from manifest.families.torchvision.switches import switched, switched_by_weights
from manifest.probes.inputs import Inputs, Probe, images_alone, shipped
from manifest.schema.document import Architecture, Preprocess, Reading

_HEADS = ("head.", "heads.", "fc.", "classifier.", "aux_classifier.", "rpn.", "roi_heads.", "aux1.", "aux2.")
_AUXILIARY = "AuxLogits."
_SIDE = 224  # pixels, of models that take images of any size
_DETECTED_SIDE = 320  # pixels, of images that a detector is traced with
_SIDES = {"Inception3": 299, "QuantizableInception3": 299}
_FRAMES = 16
_LEAST_FLOW = 128  # pixels a side, for RAFT's pyramid of correlations
_OF_IMAGENET = "AlexNet_Weights.IMAGENET1K_V1"


class Torchvision(Adapter):
    """Adapter for `torchvision.models.get_model`."""

    name = "torchvision"
    builder = "torchvision.models.get_model"
    rows: ClassVar[Mapping[str, str]] = {"logits": "images", "aux": "images", "flow": "images"}

    def recognises(self, module: nn.Module) -> bool:
        return type(module).__module__.startswith("torchvision.models.")

    def create(self, creation: Creation) -> nn.Module:
        arguments = dict(creation.arguments)
        precision = arguments.pop("precision", "fp32")
        if creation.pretrained:
            if "weights" not in (weights := weights_of(creation)):
                raise InputError(
                    f"{creation.name} has no weights {creation.pretrained!r}, expected a name such as 'DEFAULT'; "
                    "load a file of your own afterwards."
                )
            arguments["weights"] = weights["weights"]
        return cast(torchvision.models.get_model(creation.name, **arguments), precision)

    def resolve(self, creation: Creation) -> Draft:
        return resolve(creation)

    def construct(self, draft: Draft) -> nn.Module:
        return construct(draft)

    def recover(self, module: nn.Module) -> Iterator[Draft]:
        return recover(module)

    def origin(self, creation: Creation) -> tuple[str | None, list[str]]:
        """Weights that were named; a builder's default is not, since a checkpoint need not have started from it."""
        named = {parameter for parameter in WEIGHTS if creation.arguments.get(parameter) is not None}
        weights = {} if not (named or creation.pretrained) else weights_of(creation)
        for parameter in ("weights", *named):
            if parameter in weights:
                categories = weights[parameter].meta.get("categories", ()) if parameter == "weights" else ()
                return str(weights[parameter]), list(categories)
        return super().origin(creation)

    def forward(self, ghost: Any) -> None:
        try:
            _forward(ghost, next(ghost.parameters()).dtype)
        except RuntimeError as error:  # boxes, and whatever else is decided by values
            raise NotImplementedError from error

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        del architecture
        return {name: _role(name) for name in names}

    def preprocess_asked(self, creation: Creation) -> Preprocess | None:
        """What belongs to the weights that were asked for; detectors prepare their images themselves."""
        weights = weights_of(creation).get("weights")
        preset = weights.transforms() if weights is not None else None
        return _record_of(preset) if isinstance(preset, ImageClassification) else None

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        return (None if architecture.preprocess is None else _load_preprocess(architecture.preprocess)), None

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        name = architecture.config["name"]
        if not switched_by_weights(name):
            return ()
        with without_weights():
            return list(switched(name, construct(self.draft_of(architecture))))

    def probe_preprocess(self, architecture: Architecture) -> Preprocess | None:
        if architecture.preprocess is not None or _home(architecture) in PREPARED:
            return architecture.preprocess
        arguments = architecture.config.get("arguments", {})
        side = arguments.get("image_size") or _SIDES.get(architecture.class_name, _SIDE)
        return _record_of(ImageClassification(crop_size=side, resize_size=side))

    def inputs(
        self, architecture: Architecture, probe: str | None = None, material: Probe | None = None
    ) -> Inputs | None:
        """The photographs: prepared as recorded, or as most models of the kind want them."""
        del probe  # of each kind of model there is one
        material = material or shipped()
        home = _home(architecture)
        if home in PREPARED:
            return PREPARED[home](material)
        record = self.probe_preprocess(architecture)
        return None if record is None else images_alone(material, _load_preprocess(record))

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        if is_detector(module):
            return detect(module, inputs.tensors["images"])
        answer = module(*inputs.tensors.values())
        if isinstance(answer, list):  # optical flow, finer with every step
            return {"flow": answer[-1]}
        if isinstance(answer, torch.Tensor):
            return {"logits": answer}
        return {"logits" if name == "out" else name: tensor for name, tensor in answer.items()}

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        if is_detector(module):
            return objects(outputs, inputs.names["images"], _categories(architecture, None))
        logits = outputs.get("logits")
        if logits is None or logits.ndim != 2:
            return []
        return most_likely(logits, inputs.names["images"], _categories(architecture, logits.shape[1]))


FAMILY = Torchvision()


def _home(architecture: Architecture) -> str:
    """Which of torchvision's collections a builder is of: `detection`, `video`, … or `models`."""
    home: str = get_model_builder(architecture.config["name"]).__module__
    return home.split(".")[-2]


def _categories(architecture: Architecture, count: int | None) -> Sequence[str]:
    """Names of that many classes, of any number when None: those of the weights that were named, or ImageNet's."""
    for named in (architecture.arguments.get("weights"), *([] if count is None else [_OF_IMAGENET])):
        try:
            categories: Sequence[str] = get_weight(named).meta.get("categories", ())
        except (AttributeError, KeyError, ValueError):  # none was named, or by someone who made it up
            continue
        if count in (None, len(categories)):
            return categories
    return ()


def _role(name: str) -> str:
    if name.startswith("backbone.fpn."):
        return "neck"
    return "head" if name.startswith((*_HEADS, _AUXILIARY)) else "backbone"


def _forward(ghost: Any, dtype: torch.dtype) -> None:
    def images(*shape: int) -> torch.Tensor:
        return torch.empty(1, 3, *shape, dtype=dtype, device="meta")

    collection = type(ghost).__module__.split(".")[2]
    if collection == "detection":
        _detect(ghost, images(*(ghost.transform.fixed_size or (_DETECTED_SIDE, _DETECTED_SIDE))))
    elif collection == "optical_flow":
        ghost(images(_LEAST_FLOW, _LEAST_FLOW), images(_LEAST_FLOW, _LEAST_FLOW), num_flow_updates=1)
    elif collection == "video":
        ghost(images(_FRAMES, _SIDE, _SIDE))
    else:
        side = getattr(ghost, "image_size", None) or _SIDES.get(type(ghost).__name__, _SIDE)
        ghost(images(side, side))


def _detect(ghost: Any, images: torch.Tensor) -> None:
    """Backbone and heads of a detector; what lies between them is decided by values."""
    features = ghost.backbone(images)
    features = [features] if isinstance(features, torch.Tensor) else list(features.values())
    if not hasattr(ghost, "roi_heads"):
        ghost.head(features)
        return
    ghost.rpn.head(features)
    for kind in ("box", "mask", "keypoint"):
        if (head := getattr(ghost.roi_heads, f"{kind}_head", None)) is not None:
            size = getattr(ghost.roi_heads, f"{kind}_roi_pool").output_size
            regions = images.new_empty(1, features[0].shape[1], *size)
            getattr(ghost.roi_heads, f"{kind}_predictor")(head(regions))


def _record_of(preset: ImageClassification) -> Preprocess:
    return Preprocess(
        size=preset.crop_size * 2,
        mean=preset.mean,
        std=preset.std,
        interpolation=preset.interpolation.value,
        resize_mode="shortest",
        resize=preset.resize_size,
        antialias=preset.antialias,
    )


def _load_preprocess(record: Preprocess) -> ImageClassification:
    """torchvision's preset for classification.

    Raises:
        ArchitectureError: It is none; a record may come from anyone.
    """
    with as_recorded(record, "torchvision"):
        require_sane_images(record)
        preset = ImageClassification(
            crop_size=record.size[0],
            mean=tuple(record.mean),
            std=tuple(record.std),
            interpolation=InterpolationMode(record.interpolation),
            antialias=record.antialias,
        )
    preset.crop_size, preset.resize_size = list(record.size), list(record.resize or record.size)
    return preset

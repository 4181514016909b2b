"""The timm family: image models of `timm.create_model`, from the call or from the bare module.

timm notes on a module which registered architecture it is (`pretrained_cfg`) and with which arguments it was made
(`_model_args`); what was changed afterwards shows. A config here is the keywords of `timm.create_model`. The tag of the
weights is provenance, and part of the name only where another tag would mean other classes or other preprocessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import timm
import timm.data
import torch
from torch import nn

from manifest.errors import ArchitectureError
from manifest.families.adapter import Adapter, Draft, cast
from manifest.families.json_arguments import from_data
from manifest.families.limits import as_recorded, require_sane, require_sane_images
from manifest.families.protocol import Conversion, Creation, Variant
from manifest.families.readings import most_likely
from manifest.families.timm.naming import cfg_of, is_image_tower
from manifest.families.timm.recovery import recover
from manifest.families.timm.resolving import WHERE_NOT_WHAT, change, resolve
from manifest.identification.pretrained import split_timm_name
from manifest.probes.inputs import Inputs, Probe, images_alone, shipped
from manifest.schema.document import Architecture, Preprocess, Reading
from manifest.weights.shape_diff import ShapeDiff

_MOST_FEATURES = 64
_RESIZE_MODES = {"center": "shortest", "squash": "squash", "border": "longest"}
"""timm's modes of cropping, and how each of them resizes."""
_IMAGENET = 1000
_TRANSFORMERS = ("VisionTransformer", "Eva", "Beit", "NaFlexVit")
"""How the names of classes begin whose weights are published for one activation and rebuilt with another."""
_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
"""Classes of activations that weights are confused about, and timm's names of them."""


class Timm(Adapter):
    """Adapter for everything that `timm.create_model` makes."""

    name = "timm"
    builder = "timm.create_model"
    rows: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("logits", "features", *(f"features.{index}" for index in range(_MOST_FEATURES))), "images"
    )

    def recognises(self, module: nn.Module) -> bool:
        cfg = getattr(module, "pretrained_cfg", None)
        return isinstance(cfg, Mapping) and type(module).__module__.split(".")[0] == "timm"

    def create(self, creation: Creation) -> nn.Module:
        arguments, name = dict(creation.arguments), creation.name
        pretrained, precision = bool(arguments.pop("pretrained", False)), arguments.pop("precision", "fp32")
        if creation.pretrained and cfg_of(tagged := f"{split_timm_name(name)[0]}.{creation.pretrained}") is not None:
            name, pretrained = tagged, True
        elif creation.pretrained:
            arguments["checkpoint_path"] = creation.pretrained
        return cast(timm.create_model(name, pretrained=pretrained, **arguments), precision)

    def resolve(self, creation: Creation) -> Draft:
        return resolve(creation)

    def construct(self, draft: Draft) -> nn.Module:
        require_sane(draft.config)
        arguments = from_data(draft.config)
        name, afterwards = arguments.pop("model_name", None), arguments.pop("afterwards", {})
        if not isinstance(name, str) or ":" in name or WHERE_NOT_WHAT & set(arguments):
            # A record may come from anyone, and a source or a path is a file to open.
            raise ArchitectureError(
                f"The config would have timm make {name!r:.80} out of other places than its registry; "
                "get the manifest from a source you trust."
            )
        module = timm.create_model(name, pretrained=False, **arguments)
        change(module, afterwards)
        return cast(module, draft.precision)

    def recover(self, module: nn.Module) -> Iterator[Draft]:
        return recover(module, self.construct)

    def forward(self, ghost: Any) -> None:
        shape = (1, _channels(ghost), *_image_size(ghost))
        try:
            ghost(torch.empty(shape, dtype=next(ghost.parameters()).dtype, device="meta"))
        except RuntimeError as error:  # some models decide by values, or keep tables that are no buffers
            raise NotImplementedError from error

    def roles(self, architecture: Architecture, names: Iterable[str]) -> dict[str, str]:
        name, config = architecture.config["model_name"], architecture.config
        cfg = cfg_of(name) or {}
        classifiers = (config.get("pretrained_cfg_overlay") or {}).get("classifier", cfg.get("classifier")) or ()
        classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(from_data(classifiers))
        heads = tuple(f"{classifier}." for classifier in classifiers)
        backbone, head = "backbone", "head"
        if is_image_tower(name):
            backbone = "vision_tower"
            if config.get("num_classes", cfg.get("num_classes")) == cfg.get("num_classes"):
                head = "vision_projection"
        return {tensor: head if heads and tensor.startswith(heads) else backbone for tensor in names}

    def preprocess_of(
        self, draft: Draft, built: nn.Module, live: nn.Module | None, creation: Creation | None
    ) -> Preprocess | None:
        """As timm would prepare images for this model; None where they are no photographs."""
        del draft, creation
        module: Any = built if live is None else live
        if _channels(module) != 3:
            return None
        cfg = timm.data.resolve_data_config(pretrained_cfg=module.pretrained_cfg)
        return Preprocess(
            size=list(_image_size(module)),
            mean=[float(value) for value in cfg["mean"]],
            std=[float(value) for value in cfg["std"]],
            interpolation=cfg["interpolation"],
            resize_mode=_RESIZE_MODES[cfg["crop_mode"]],
            crop_pct=float(cfg["crop_pct"]),
            crop_mode=cfg["crop_mode"],
        )

    def transforms(self, architecture: Architecture) -> tuple[Any, Any]:
        record = architecture.preprocess
        return (None if record is None else _load_preprocess(record)), None

    def inputs(
        self, architecture: Architecture, probe: str | None = None, material: Probe | None = None
    ) -> Inputs | None:
        del probe  # there is one
        preprocess, _ = self.transforms(architecture)
        return None if preprocess is None else images_alone(material or shipped(), preprocess)

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        answer = module(inputs.tensors["images"])
        if isinstance(answer, torch.Tensor):
            return {"logits" if getattr(module, "num_classes", 0) else "features": answer}
        values = answer.values() if isinstance(answer, Mapping) else answer
        tensors = [value for value in values if isinstance(value, torch.Tensor)]
        return {f"features.{index}": tensor for index, tensor in enumerate(tensors)}

    def converts(self, creation: Creation) -> bool:
        # What `pretrained_cfg_overlay` names is made to fit; the file of `checkpoint_path` is loaded as it is.
        return not creation.arguments.get("checkpoint_path")

    def shared_outputs(self, module: nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        answer = module(inputs.tensors["images"]) if "images" in inputs.tensors else None
        return {"image_features": answer} if isinstance(answer, torch.Tensor) and answer.ndim == 2 else {}

    def readings(
        self, architecture: Architecture, module: nn.Module, inputs: Inputs, outputs: Mapping[str, torch.Tensor]
    ) -> list[Reading]:
        del module
        logits = outputs.get("logits")
        if logits is None or logits.ndim != 2 or "vision_projection" in self._head_roles(architecture):
            return []
        return most_likely(logits, inputs.names["images"], _categories() if logits.shape[1] == _IMAGENET else ())

    def variants(self, architecture: Architecture) -> Sequence[Variant]:
        found = {kind for kinds in architecture.activations.values() for kind in kinds}
        other = {"GELU": "QuickGELU", "QuickGELU": "GELU"}
        kind = next((kind for kind in other if kind in found), None)
        if kind is None or not architecture.class_name.startswith(_TRANSFORMERS):
            return ()
        config = {**architecture.config, "act_layer": _ACTIVATIONS[other[kind]]}
        return (
            Variant(
                "activation",
                here=kind,
                there=other[kind],
                cure=f"act_layer={_ACTIVATIONS[other[kind]]!r}",
                back=f"act_layer={_ACTIVATIONS[kind]!r}",
                architecture=architecture.model_copy(update={"config": config}),
            ),
        )

    def origin(self, creation: Creation) -> tuple[str | None, list[str]]:
        if (weights := self.weights_file(creation)) is not None:
            return weights.name, []
        if creation.arguments.get("pretrained"):
            architecture, tag = split_timm_name(creation.name)
            return tag or str((cfg_of(architecture) or {}).get("tag") or architecture), []
        return super().origin(creation)

    def weights_file(self, creation: Creation) -> Path | None:
        arguments = creation.arguments
        if path := arguments.get("checkpoint_path"):
            return Path(path)
        path = (arguments.get("pretrained_cfg_overlay") or {}).get("file")
        return Path(path) if path and arguments.get("pretrained") else None

    def conversions(self, architecture: Architecture, misfit: ShapeDiff) -> list[Conversion]:
        roles = self.roles(architecture, misfit.reshaped)
        shapes = {name: f"{name} {list(found)} → {list(asked)}" for name, (found, asked) in misfit.reshaped.items()}
        return [
            Conversion("head", f"{words}, initialised anew")
            if roles[name] in {"head", "vision_projection"}
            else Conversion("position_embedding", words)
            for name, words in shapes.items()
            if roles[name] in {"head", "vision_projection"} or name.endswith("pos_embed")
        ]

    def _head_roles(self, architecture: Architecture) -> set[str]:
        classifier = (cfg_of(architecture.config["model_name"]) or {}).get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else classifier
        return set(self.roles(architecture, [f"{name}.weight" for name in names]).values())


FAMILY = Timm()


def _image_size(module: Any) -> tuple[int, int]:
    """(height, width) that a model was made for, or that its weights were trained at where it takes any."""
    size = (getattr(module, "_traits", None) or {}).get("img_size") or module.pretrained_cfg["input_size"][-2:]
    return int(size[0]), int(size[1])


def _channels(module: Any) -> int:
    return int(getattr(module, "in_chans", module.pretrained_cfg["input_size"][0]))


def _load_preprocess(record: Preprocess) -> Any:
    """timm's transform for inference.

    Raises:
        ArchitectureError: It is none that timm has; a record may come from anyone.
    """
    with as_recorded(record, "timm"):
        crop_pct = record.crop_pct or timm.data.DEFAULT_CROP_PCT
        require_sane_images(record, largest=max(record.size) / crop_pct)
        if record.crop_mode not in _RESIZE_MODES:
            raise ValueError(f"crop mode {record.crop_mode!r}")
        return timm.data.create_transform(
            (3, *record.size),
            interpolation=record.interpolation,
            mean=tuple(record.mean),
            std=tuple(record.std),
            crop_pct=crop_pct,
            crop_mode=record.crop_mode,
        )


@cache
def _categories() -> tuple[str, ...]:
    """The classes of ImageNet-1k in their order; every name is one once."""
    descriptions = timm.data.ImageNetInfo().label_descriptions()
    return tuple(description.split(",")[0] for description in descriptions)

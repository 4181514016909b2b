"""Six small checkpoints with their manifests, one of each kind, of weights that a seed makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as dcp
from torchvision.models import detection

import manifest
from manifest.probes.inputs import Probe

MODULE = "tests.workflows.ownmodels"


def open_clip(digits: Any, folder: Path) -> Path:
    path = folder / "ckpt.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path)
    return path


def of_timm(_: Any, folder: Path) -> Path:
    torch.manual_seed(3)
    path = folder / "ckpt.pt"
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=3, depth=2, embed_dim=48, num_heads=3, img_size=64, act_layer="gelu"
    )
    manifest.save(model, path, extras={"epoch": 3})
    return path


def detector(_: Any, folder: Path) -> Path:
    torch.manual_seed(3)
    path = folder / "ckpt.pth"
    model = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=32,
        max_size=32,
        rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=20,
        box_score_thresh=0.33,
        box_detections_per_img=3,
    )
    manifest.save(model, path)
    return path


def sharded(digits: Any, folder: Path) -> Path:
    """Weights in two safetensors files with an index."""
    import json

    state = {name: tensor.clone() for name, tensor in manifest.load(digits.WEIGHTS, verify="none").state_dict().items()}
    names = sorted(state)
    place = folder / "sharded"
    place.mkdir()
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({name: state[name] for name in own}, place / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))
    manifest.create(place, digits.MODEL, family="open_clip")
    return place


def distributed(digits: Any, folder: Path) -> Path:
    """A directory as `torch.distributed.checkpoint` writes it."""
    state = manifest.load(digits.WEIGHTS, verify="none").state_dict()
    place = folder / "step-9"
    dcp.save({"model": state, "optim": {"step": torch.tensor(1)}}, checkpoint_id=place)
    manifest.create(place, digits.MODEL, family="open_clip")
    return place


def factory(_: Any, folder: Path) -> Path:
    """A model of a user's own, with answers to a probe of the user's own."""
    from tests.workflows.ownmodels import Pairs

    torch.manual_seed(3)
    path = folder / "ckpt.pt"
    manifest.save(
        Pairs(6),
        path,
        family="callable",
        model_name=f"{MODULE}:Pairs",
        arguments={"width": 6},
        probes=[PROBE],
        dataset="a note",
    )
    return path


PROBE = Probe(name="pairs", tensors={"x": torch.arange(12.0).reshape(2, 6) / 12})

SIX: Mapping[str, Callable[[Any, Path], Path]] = {
    "open_clip": open_clip,
    "timm": of_timm,
    "detection": detector,
    "sharded": sharded,
    "dcp": distributed,
    "callable": factory,
}

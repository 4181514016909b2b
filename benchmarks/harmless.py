"""Writes checkpoints as people save them, none of which does harm: `python benchmarks/harmless.py FOLDER`.

Real models of real libraries, with random weights since a scanner does not look at weights; and the checkpoints of the
published packages that `fixtures/packages.py` fetches, where they are. `list.json` in the folder has one entry a file.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import functools
import importlib.util
import json
import logging
import pickle
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import timm.utils
import torch
import torchvision
import transformers
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn
from torch.distributed import checkpoint as dcp
from torch.optim.swa_utils import AveragedModel

_PACKAGES = Path(__file__).parents[1] / "fixtures" / "packages.py"
_CHECKPOINTS = (".pt", ".pth", ".safetensors", ".jit", ".bin", ".ckpt")


@dataclass
class Settings:
    """What a training script keeps beside its weights."""

    rate: float = 1e-3


class Trained:
    """Small models, each made once, and trained for a step so that optimizers have states."""

    @functools.cached_property
    def clip(self) -> nn.Module:
        text = {"context_length": 16, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}
        vision = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2}
        return open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text)

    @functools.cached_property
    def net(self) -> nn.Module:
        return timm.create_model("resnet10t", num_classes=10)

    @functools.cached_property
    def vit(self) -> nn.Module:
        return timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=10)

    def optimizer(self, kind: Callable[..., torch.optim.Optimizer], **options: Any) -> torch.optim.Optimizer:
        """Of the small net, after a step."""
        made = kind(self.net.parameters(), **options)
        self.net(torch.randn(2, 3, 64, 64)).sum().backward()
        made.step()
        return made


def saved(make: Callable[[Trained], Any], name: str = "model.pt", **options: Any) -> Callable[[Trained, Path], Path]:
    """By torch.save."""

    def write(trained: Trained, folder: Path) -> Path:
        torch.save(make(trained), folder / name, **options)
        return folder / name

    return write


def legacy(make: Callable[[Trained], Any]) -> Callable[[Trained, Path], Path]:
    return saved(make, "model.pth", _use_new_zipfile_serialization=False)


def of_open_clip(trained: Trained) -> dict[str, Any]:
    """As open_clip's trainer saves."""
    optimizer = trained.optimizer(torch.optim.AdamW, lr=1e-3)
    return {
        "epoch": 3,
        "name": "run",
        "state_dict": {f"module.{name}": value for name, value in trained.clip.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }


def of_timm(trained: Trained, folder: Path) -> Path:
    """By timm's own saver, with the arguments of the script."""
    saver = timm.utils.CheckpointSaver(
        trained.net,
        trained.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9),
        args=argparse.Namespace(model="resnet10t", lr=0.1, mean=None),
        model_ema=AveragedModel(trained.net),
        amp_scaler=None,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(0, metric=0.5)
    return folder / "last.pth.tar"


def resumed(trained: Trained) -> dict[str, Any]:
    """Everything that a script needs to go on."""
    optimizer = trained.optimizer(torch.optim.AdamW, lr=1e-3)
    return {
        "model": trained.net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},
        "best": np.float64(0.5),
        "history": collections.defaultdict(list, loss=[1.0, 0.5]),
        "when": datetime.datetime(2026, 1, 1),
    }


def scripted(_: Trained, folder: Path) -> Path:
    torch.jit.script(torchvision.models.squeezenet1_1()).save(folder / "scripted.pt")
    return folder / "scripted.pt"


def traced(trained: Trained, folder: Path) -> Path:
    torch.jit.trace(trained.net.eval(), torch.randn(1, 3, 64, 64)).save(folder / "traced.pt")
    return folder / "traced.pt"


def exported(_: Trained, folder: Path) -> Path:
    torch.export.save(torch.export.export(nn.Linear(4, 4), (torch.randn(1, 4),)), folder / "model.pt2")
    return folder / "model.pt2"


def packaged(trained: Trained, folder: Path) -> Path:
    with torch.package.PackageExporter(folder / "package.pt") as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "weights.pkl", dict(trained.net.state_dict()))
    return folder / "package.pt"


def distributed(trained: Trained, folder: Path) -> Path:
    dcp.save(dict(trained.net.state_dict()), checkpoint_id=folder / "dcp", no_dist=True)
    return folder / "dcp"


def of_transformers(_: Trained, folder: Path) -> Path:
    config = transformers.BertConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64)
    transformers.BertModel(config).save_pretrained(folder / "bert", max_shard_size="1MB")
    return folder / "bert"


def safetensors(trained: Trained, folder: Path) -> Path:
    state = {name: value.contiguous() for name, value in trained.clip.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return folder / "model.safetensors"


def npz(make: Callable[[Trained], dict[str, Any]]) -> Callable[[Trained, Path], Path]:
    def write(trained: Trained, folder: Path) -> Path:
        np.savez(folder / "weights.npz", **make(trained))
        return folder / "weights.npz"

    return write


def of_numpy(trained: Trained) -> dict[str, Any]:
    return {name: value.numpy() for name, value in trained.net.state_dict().items()}


def pickled(trained: Trained, folder: Path) -> Path:
    """As detectron2's weights are."""
    (folder / "model.pkl").write_bytes(pickle.dumps({"model": of_numpy(trained)}, protocol=2))
    return folder / "model.pkl"


def quantized(_: Trained) -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


MAKERS: dict[str, Callable[[Trained, Path], Path]] = {
    "open_clip, a state dict": saved(lambda t: t.clip.state_dict()),
    "open_clip, a state dict, legacy form": legacy(lambda t: t.clip.state_dict()),
    "open_clip, as its trainer saves": saved(of_open_clip, "epoch_3.pt"),
    "open_clip, a whole model": saved(lambda t: t.clip),
    "open_clip, safetensors": safetensors,
    "timm, a state dict": saved(lambda t: t.net.state_dict(), "model.pth"),
    "timm, a state dict, legacy form": legacy(lambda t: t.net.state_dict()),
    "timm, by its own saver": of_timm,
    "timm, a whole ViT": saved(lambda t: t.vit),
    "timm, a whole ResNet, legacy form": legacy(lambda t: t.net),
    "torchvision, a whole model": saved(lambda _: torchvision.models.squeezenet1_1()),
    "torch, a whole transformer": saved(lambda _: nn.Transformer(16, 2, 1, 1, 32)),
    "torch, a whole LSTM": saved(lambda _: nn.LSTM(8, 8, 2)),
    "torch, a quantized model": saved(quantized),
    "torch, a bare tensor": saved(lambda _: torch.randn(4)),
    "torch, a list of tensors": saved(lambda _: [torch.randn(4), torch.randn(4)], "tensors.bin"),
    "torch, bfloat16 and sparse": saved(
        lambda _: {
            "a": torch.randn(4).bfloat16(),
            "b": torch.eye(4).to_sparse(),
            "c": torch.randn(2, dtype=torch.cfloat),
        }
    ),
    "torch, parameters": saved(lambda _: {"w": nn.Parameter(torch.randn(4))}, "model.ckpt"),
    "an average of models": saved(lambda t: AveragedModel(t.net).state_dict()),
    "optimizer, SGD": saved(lambda t: t.optimizer(torch.optim.SGD, lr=0.1, momentum=0.9).state_dict(), "optimizer.pt"),
    "optimizer, AdamW": saved(lambda t: t.optimizer(torch.optim.AdamW).state_dict(), "optimizer.pt"),
    "optimizer, AdamW, as an object": saved(lambda t: t.optimizer(torch.optim.AdamW), "optimizer.pt"),
    "all that a script needs to go on": saved(resumed, "last.ckpt"),
    "weights beside a Namespace": saved(
        lambda t: {"model": t.net.state_dict(), "args": argparse.Namespace(out=Path("out"))}, "checkpoint.pth"
    ),
    "weights beside OmegaConf": saved(lambda t: {"model": t.net.state_dict(), "cfg": OmegaConf.create({"lr": 0.1})}),
    "weights beside a dataclass of the script": saved(lambda t: {"model": t.net.state_dict(), "settings": Settings()}),
    "TorchScript, scripted": scripted,
    "TorchScript, traced": traced,
    "torch.export": exported,
    "torch.package of weights": packaged,
    "torch.distributed.checkpoint": distributed,
    "transformers, sharded safetensors": of_transformers,
    "transformers, a whole model": saved(
        lambda _: transformers.BertModel(transformers.BertConfig(hidden_size=24, num_hidden_layers=1, vocab_size=64))
    ),
    "numpy, arrays": npz(of_numpy),
    "numpy, arrays beside texts": npz(lambda t: {**of_numpy(t), "labels": np.array(["cat", "dog"])}),
    "numpy, arrays beside objects": npz(lambda t: {**of_numpy(t), "labels": np.array(["cat", None], dtype=object)}),
    "a plain pickle of numpy arrays": pickled,
}


def published() -> list[Path]:
    """Checkpoints of published packages, where they were fetched."""
    spec = importlib.util.spec_from_file_location("fixtures_packages", _PACKAGES)
    assert spec is not None and spec.loader is not None
    packages = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = packages
    spec.loader.exec_module(packages)
    return sorted(path for path in packages.cache().glob("*/**/*") if path.suffix in _CHECKPOINTS)


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    trained = Trained()
    entries = []
    for number, (name, make) in enumerate(MAKERS.items()):
        place = folder / f"{number:02}"
        place.mkdir()
        entries.append({"name": name, "kind": "as people save", "path": str(make(trained, place))})
    entries += [{"name": path.name, "kind": "published", "path": str(path)} for path in published()]
    (folder / "list.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

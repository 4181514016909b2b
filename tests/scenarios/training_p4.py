"""A few steps of training a small detector, everything seeded; prints a digest of its weights for each seed."""

from __future__ import annotations

import random
import sys
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.retinanet import RetinaNet

import manifest


class Rectangles(Dataset[Any]):
    """Images with a bright rectangle, placed by whichever generator comes next."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        left, top = random.uniform(0, 20), float(np.random.uniform(0, 20))
        image = torch.rand(3, 64, 64) * 0.1 + index / 100
        image[:, int(top) : int(top) + 20, int(left) : int(left) + 20] += 0.8
        boxes = torch.tensor([[left, top, left + 20, top + 20]])
        return image, {"boxes": boxes, "labels": torch.tensor([1 + index % 2])}


def together(batch: list[Any]) -> Any:
    return [image for image, _ in batch], [target for _, target in batch]


def main(seed: int) -> None:
    with manifest.deterministic(seed=seed, warn_only=True):
        backbone = mobilenet_backbone(
            backbone_name="mobilenet_v3_small", weights=None, fpn=True, norm_layer=nn.BatchNorm2d
        )
        anchors = AnchorGenerator(sizes=((16,), (32,), (64,)), aspect_ratios=((1.0,),) * 3)
        model: Any = RetinaNet(backbone, 3, anchor_generator=anchors, min_size=64, max_size=64).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        batches = DataLoader(
            Rectangles(),
            batch_size=2,
            shuffle=True,
            num_workers=2,
            collate_fn=together,
            worker_init_fn=manifest.seed_worker,
            generator=manifest.dataloader_generator(),
        )
        for images, targets in batches:
            optimizer.zero_grad()
            sum(model(images, targets).values()).backward()
            optimizer.step()
    digest = blake3()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.contiguous().view(-1).numpy().tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    for seed in sys.argv[1:]:
        main(int(seed))

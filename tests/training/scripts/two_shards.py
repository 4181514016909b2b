"""Training of a model in shards, saved by `torch.distributed.checkpoint` as torch's tutorials do."""

from __future__ import annotations

import sys

import timm
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.fsdp import fully_shard


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(torch.randn(2, 3, 224, 224)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    weights, rest = get_state_dict(model, optimizer)
    for _ in range(2):  # the second replaces the first
        dcp.save({"model": weights, "optimizer": rest}, checkpoint_id=sys.argv[1])
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

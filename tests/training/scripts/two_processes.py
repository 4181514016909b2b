"""Data parallel training of a small network, saved by process 0 alone as scripts do, and a file of every process."""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    dist.init_process_group("gloo")
    rank, place = dist.get_rank(), Path(sys.argv[1])
    torch.manual_seed(rank)
    model = DistributedDataParallel(timm.create_model("resnet10t", num_classes=3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        model(torch.randn(2, 3, 64, 64)).square().mean().backward()
        optimizer.step()
    if rank == 0:
        torch.save({"state_dict": model.state_dict(), "epoch": 1}, place / "epoch_1.pt")
    torch.save({"state_dict": model.state_dict()}, place / f"mine_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Processes that save a distributed checkpoint together: `python saving_distributed.py world folder`.

The libraries are imported once, and the processes are forked then. Each saves its pieces into `folder/sharded` and
`folder/trained`; the first also writes, with torch.save, what they are pieces of.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Placement, Replicate, Shard, distribute_tensor


def placements(world: int) -> dict[str, tuple[DeviceMesh, list[Placement]]]:
    """Ways to lay a tensor out over all processes."""
    line = init_device_mesh("cpu", (world,))
    ways: dict[str, tuple[DeviceMesh, list[Placement]]] = {
        "rows": (line, [Shard(0)]),
        "columns": (line, [Shard(1)]),
        "copies": (line, [Replicate()]),
    }
    if world == 4:
        square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
        ways["blocks"] = (square, [Shard(0), Shard(1)])
        ways["turned blocks"] = (square, [Shard(1), Shard(0)])
        ways["rows twice"] = (square, [Shard(0), Shard(0)])
        ways["copies of columns"] = (square, [Replicate(), Shard(1)])
    return ways


def whole_tensors() -> dict[str, torch.Tensor]:
    """Tensors whose sizes no number of processes divides, and some that are smaller than it."""
    generator = torch.Generator().manual_seed(0)
    return {
        "float32": torch.randn(11, 7, generator=generator),
        "bfloat16": torch.randn(5, 9, 3, generator=generator).bfloat16(),
        "int64": torch.arange(13 * 6).reshape(13, 6),
        "bool": torch.arange(35).reshape(7, 5) % 3 == 0,
        "few rows": torch.randn(3, 2, generator=generator),
        "one element": torch.randn(1, 1, generator=generator),
        "no row": torch.empty(0, 4),
    }


def save_sharded(folder: Path, world: int) -> None:
    """Every tensor in every layout, and some that each process has whole."""
    whole: dict[str, torch.Tensor] = {}
    pieces: dict[str, torch.Tensor] = {}
    for way, (mesh, placement) in placements(world).items():
        for name, tensor in whole_tensors().items():
            whole[f"{way}.{name}"] = tensor
            pieces[f"{way}.{name}"] = distribute_tensor(tensor, mesh, placement)
    whole["plain"] = pieces["plain"] = torch.arange(6.0).reshape(2, 3).t()
    whole["scalar"] = pieces["scalar"] = torch.tensor(2.5)
    dcp.save(pieces, checkpoint_id=folder / "sharded")
    if dist.get_rank() == 0:
        torch.save(whole, folder / "sharded.pt")


def save_trained(folder: Path, world: int) -> None:
    """A model under FSDP after a step of training, with its optimizer."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.BatchNorm1d(10), torch.nn.Linear(10, 3))
    for layer in (*model, model):
        fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": 7}, checkpoint_id=folder / "trained")
    full = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        torch.save(full, folder / "trained.pt")


def save(rank: int, world: int, folder: Path) -> None:
    """Be one of the processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
    save_sharded(folder, world)
    save_trained(folder, world)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    world, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                save(rank, world, folder)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children))


if __name__ == "__main__":
    main()

"""Processes that save together, over gloo.

Started as a program, it reads orders from its standard input, a JSON object a line: `{"scenario", "world", "folder"}`.
For each it forks so many processes, which join a group and play the function of that name, and answers with how they
ended. The libraries are imported once, before the forks. What a function returns is written to `folder/RANK.json`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
import torch.distributed as dist
from tied import Tied, build
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import manifest
from manifest.distributed.sharding import whole_state
from manifest.errors import ManifestError
from manifest.workflows import saving_distributed as distributed

DIGITS = Path(__file__).parents[2] / "fixtures" / "digits_clip"
PATIENCE = 60.0
"""Seconds until processes that still wait for each other are killed."""


def clip(rank: int, folder: Path) -> Any:
    """A trained CLIP whose vision tower is frozen, sharded block by block, computing in bfloat16."""
    open_clip.add_model_config(DIGITS / "digits-clip.json")
    model: Any = manifest.load(DIGITS / "digits_clip.safetensors", verify="none").train()
    model.visual.requires_grad_(False)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        fully_shard(block, mp_policy=policy)
    fully_shard(model, mp_policy=policy, reshard_after_forward=False, ignored_params={model.logit_scale})
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3)

    def step() -> None:
        images, tokens = torch.randn(2, 3, 32, 32), torch.randint(49408, (2, 8))
        sum(answer.float().sum() for answer in model(images, tokens)).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    recorded = manifest.save_distributed(
        model,
        folder / "step-1",
        key=folder / "release.key" if rank == 0 else "not here",
        extras={"optimizer": get_optimizer_state_dict(model, optimizer), "step": 1},
        floor="none",
    )
    step()  # would wait for ever if one of the processes had been left with whole parameters
    again = manifest.save_distributed(model, folder / "step-1", golden=False)
    whole = manifest.save(model, folder / "whole.pt", golden=False)
    assert whole is not None
    state = whole_state(model)
    if rank == 0:
        plain: Any = manifest.load(DIGITS / "digits_clip.safetensors", verify="none")
        plain.load_state_dict(state)
        manifest.save(plain, folder / "alone.safetensors", golden=False)
    manifest.save_distributed(model, folder / "signed", key=folder / "release.key" if rank == 0 else None, floor="none")
    return [recorded.weights.digest, again.weights.digest, whole.weights.digest]


def resnet(rank: int, folder: Path) -> Any:
    """A bfloat16 model of timm with running statistics, wrapped in parts, which its script saves by itself."""
    torch.manual_seed(0)
    model: Any = timm.create_model("resnet10t", num_classes=10).bfloat16()
    for child in (model.layer1, model.layer2):
        fully_shard(child)
    model.layer3 = checkpoint_wrapper(model.layer3)
    model.layer4 = torch.compile(model.layer4)
    fully_shard(model)
    state = whole_state(model)
    dcp_save(
        {"app": {"model": get_model_state_dict(model), "optim": {"step": torch.tensor(3)}}},
        checkpoint_id=folder / "own",
    )
    recorded = manifest.describe_distributed(folder / "own", torch.compile(model), golden=False)
    if rank == 0:
        plain = timm.create_model("resnet10t", num_classes=10).bfloat16()
        plain.load_state_dict(state)
        manifest.save(plain, folder / "alone.pt", golden=False)
    return recorded.weights.digest


def tied(rank: int, folder: Path) -> Any:
    """Sizes that nothing divides, and two names for one weight."""
    model = own(seed=0)
    plain = own(seed=0)
    fully_shard(model)
    recorded = manifest.save_distributed(model, folder / "step", golden=False, **MAKING)
    if rank == 0:
        manifest.save(plain, folder / "alone.pt", golden=False, **MAKING)
    return recorded.weights.digest


def ddp(rank: int, folder: Path) -> Any:
    """Every process calls save, as scripts do that know of no ranks."""
    wrapped = DistributedDataParallel(own(seed=rank))  # the first one's weights are everybody's
    answers = [manifest.save(torch.compile(wrapped), folder / "ckpt.pt", golden=False, **MAKING)]
    answers.append(manifest.save_distributed(wrapped, folder / "step", golden=False, **MAKING))
    answers.append(manifest.save(wrapped.module, folder / f"mine-{rank}.pt", golden=False, **MAKING))
    return [answer and answer.weights.digest for answer in answers]


def failing(rank: int, folder: Path) -> Any:
    """One process cannot do its part, each time for another reason; the last save goes well."""
    model = own(seed=0)
    fully_shard(model)

    class Broken:
        def state_dict(self) -> dict[str, Any]:
            raise KeyError("lost")

        def load_state_dict(self, state: Any) -> None:
            raise NotImplementedError

    def said(**wishes: Any) -> str:
        try:
            manifest.save_distributed(model, wishes.pop("to", folder / "step"), **{"golden": False, **MAKING, **wishes})
        except ManifestError as error:
            return f"{type(error).__name__}: {error}"
        return "saved"

    (folder / "file").write_text("")
    mine, large = {"rng": torch.zeros(rank)}, {f"noise of {rank}": torch.zeros(1 << (20 if rank == 1 else 1))}
    sentences = {
        "state": said(extras={"loader": Broken()} if rank == 1 else mine),
        "key": said(key="missing.key" if rank == 0 else None),
        "family": said(model_name="tied:absent"),
        "name": said(extras={"model": 1}),
        "place": said(to=folder / "file"),
        "part": said(partial=["nobody"]),
    }
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    sentences["disk"] = said(extras=large)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    try:
        manifest.describe_distributed(folder / "nothing", model, **MAKING)
    except ManifestError as error:
        sentences["nothing"] = f"{type(error).__name__}: {error}"
    sentences["left"] = str(sorted(path.name for path in folder.iterdir() if path.name.startswith("."))) * (rank == 0)
    sentences["none"] = said()
    return sentences


def killed(rank: int, folder: Path) -> Any:
    """A process is killed in the middle of saving other weights over a checkpoint; see the file `moment`."""
    victim, moment = json.loads((folder / "moment").read_text())
    manifest.save_distributed(own(seed=0), folder / "step", golden=False, **MAKING)
    if rank == victim:
        home: Any = FileSystemWriter if moment == "write_data" else distributed
        setattr(home, moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    try:
        manifest.save_distributed(own(seed=1), folder / "step", golden=False, **MAKING)
    except ManifestError as error:
        return f"{type(error).__name__}: {error}"
    return "saved"


def killed_alone(rank: int, folder: Path) -> Any:
    """Processes without others, each killed at a later step on the disk than the last, until one comes through."""
    manifest.save_distributed(own(seed=0), folder / "old", golden=False, **MAKING)
    (folder / "old" / "config.yaml").write_text("mine")
    (folder / "old" / "__9_0.distcp").write_text("of more processes, before")
    status = int(signal.SIGKILL)
    fatal = rank
    while os.WIFSIGNALED(status):
        fatal += 1
        place = folder / f"{fatal:03}"
        shutil.copytree(folder / "old", place / "old")
        child = os.fork()
        if child == 0:
            _die_at(fatal)
            manifest.save_distributed(own(seed=1), place / "old", golden=False, **MAKING)
            manifest.save_distributed(own(seed=1), place / "new", golden=False, **MAKING)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _die_at(fatal: int) -> None:
    """Be killed at the n-th renaming, removal, new directory or synchronisation."""
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return call

    for name in ("replace", "rename", "unlink", "mkdir", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))
    os.fsync = counted(os.fsync)


MAKING: dict[str, Any] = {"family": "callable", "model_name": "tied:build", "arguments": {"tokens": 11, "width": 7}}


def own(*, seed: int) -> Tied:
    """The model of `tied.py`, with weights that training might have given it."""
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def play(scenario: str, rank: int, world: int, folder: Path) -> int:
    """Be one of the processes."""
    sys.stderr = (folder / f"{rank}.err").open("w", buffering=1)
    try:
        if world > 1:
            dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=world)
        answer = globals()[scenario](rank, folder)
        (folder / f"{rank}.json").write_text(json.dumps(answer))
        if world > 1 and scenario != "killed":
            dist.barrier()
            dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def ended(children: list[int]) -> list[int | None]:
    """Exit codes, negative for signals; None for those that had to be killed because they did not end."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + PATIENCE
    while len(codes) < len(children):
        for child in children:
            if child not in codes and (status := os.waitpid(child, os.WNOHANG))[0]:
                codes[child] = os.waitstatus_to_exitcode(status[1])
        if time.monotonic() > deadline:
            for child in children:
                if child not in codes:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    codes[child] = None
        time.sleep(0.02)
    return [codes[child] for child in children]


def main() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        children = []
        for rank in range(order["world"]):
            child = os.fork()
            if child == 0:
                os._exit(play(order["scenario"], rank, order["world"], Path(order["folder"])))
            children.append(child)
        print(json.dumps(ended(children)), flush=True)


if __name__ == "__main__":
    main()

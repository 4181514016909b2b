"""Small checkpoints in all containers, of which one in twenty is broken or hostile, and what an audit says of each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

Verdict = tuple[int, str]
"""The exit code of an audit, and whether loading would run code."""

_BAD = 20
"""Of how many checkpoints one is bad."""
_GOOD: Verdict = (0, "safe")
_BROKEN: Verdict = (1, "unreadable")
_HOSTILE: Verdict = (1, "unsafe")


class _Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def copies(source: Path, folder: Path, count: int, *, broken: int) -> Path:
    """A new folder with copies of a checkpoint, called by their numbers; one of them is broken."""
    folder.mkdir()
    width = len(str(count - 1))
    for number in range(count):
        shutil.copy(source, folder / f"{number:0{width}}.safetensors")
    (folder / f"{broken:0{width}}.safetensors").write_bytes(b"broken")
    return folder


def populate(folder: Path, count: int) -> dict[str, Verdict]:
    """Write checkpoints into a folder.

    Returns:
        What an audit must say of each, by its path.
    """
    samples = folder.with_name("samples")
    samples.mkdir()
    good, bad = _good(samples), _bad(samples)
    expected: dict[str, Verdict] = {}
    for number in range(count):
        place = folder / f"{number // 100:03}"
        place.mkdir(parents=True, exist_ok=True)
        is_bad = number % _BAD == _BAD - 1
        some = bad if is_bad else good
        sample, verdict = some[number // _BAD % len(some)] if is_bad else some[number % len(some)]
        target = place / f"{number:05}{sample.suffix}"
        (shutil.copytree if sample.is_dir() else shutil.copyfile)(sample, target)
        expected[str(target)] = verdict
    return expected


def _good(folder: Path) -> list[tuple[Path, Verdict]]:
    generator = torch.Generator().manual_seed(0)
    state = {f"layers.{number}.weight": torch.randn(16, 16, generator=generator) for number in range(4)}
    save_file(state, folder / "good.safetensors")
    torch.save(state, folder / "good.pt")
    torch.save(state, folder / "good.pth", _use_new_zipfile_serialization=False)
    dcp.save({"model": state}, checkpoint_id=folder / "good", no_dist=True)
    return [(folder / name, _GOOD) for name in ("good.safetensors", "good.pt", "good.pth", "good")]


def _bad(folder: Path) -> list[tuple[Path, Verdict]]:
    hostile = {"weight": torch.zeros(4), "config": _Runs()}
    torch.save(hostile, folder / "hostile.pt")
    torch.save(hostile, folder / "hostile.pth", _use_new_zipfile_serialization=False)
    damages: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
        "cut.safetensors": ("good.safetensors", lambda data: data[:-100]),
        "endless.safetensors": ("good.safetensors", lambda data: (1 << 60).to_bytes(8, "little") + data[8:]),
        "cut.pt": ("good.pt", lambda data: data[: len(data) // 2]),
        "cut.pth": ("good.pth", lambda data: data[: len(data) // 2]),
        "empty.pt": ("good.pt", lambda data: data[:0]),
        "noise.pth": ("good.pth", lambda data: bytes(reversed(data))),
    }
    for name, (sample, damage) in damages.items():
        (folder / name).write_bytes(damage((folder / sample).read_bytes()))
    shutil.copytree(folder / "good", folder / "incomplete")
    next((folder / "incomplete").glob("*.distcp")).unlink()
    broken = [(folder / name, _BROKEN) for name in (*damages, "incomplete")]
    return [*broken, (folder / "hostile.pt", _HOSTILE), (folder / "hostile.pth", _HOSTILE)]

"""What is measured inside a fresh process, after its imports. Prints its result as the last line.

python benchmarks/inside.py hash CKPT
python benchmarks/inside.py names CKPT
python benchmarks/inside.py torch_names CKPT
python benchmarks/inside.py digests CKPT
python benchmarks/inside.py load CKPT full|fast|none LIBRARY
python benchmarks/inside.py open_clip|timm NAME CKPT
python benchmarks/inside.py save NAME SUFFIX RUNS DIRECTORY
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def hash_file(checkpoint: str) -> float:
    """Seconds of the integrity check by itself: to open, map and hash."""
    from manifest.checkpoint import open_checkpoint

    return _timed(lambda: open_checkpoint(checkpoint).blake3())


def names(checkpoint: str) -> float:
    """Seconds to list a checkpoint's tensors."""
    from manifest.checkpoint import open_checkpoint

    return _timed(lambda: open_checkpoint(checkpoint).tensors)


def torch_names(checkpoint: str) -> float:
    """Seconds for torch to list them, without their values."""
    import torch

    return _timed(lambda: torch.load(checkpoint, map_location="meta", weights_only=True))


def digests(checkpoint: str) -> float:
    """Seconds to open a checkpoint and digest each of its tensors."""
    from manifest.checkpoint import open_checkpoint

    def digest_all() -> list[str]:
        opened = open_checkpoint(checkpoint)
        return [opened.digest(tensor) for tensor in opened.tensors.values()]

    return _timed(digest_all)


def load(checkpoint: str, verify: Any, library: str) -> float:
    """Seconds of `manifest.load`."""
    import manifest

    import_module(f"manifest.families.{library}")  # as an application has imported it before it loads anything
    call = manifest.load
    return _timed(lambda: call(checkpoint, verify=verify))


def open_clip(name: str, checkpoint: str) -> float:
    """Seconds of `open_clip.create_model` with the same weights."""
    from open_clip import create_model

    # A manifest's weights are those of any file; `weights_only` is the default of both libraries.
    return _timed(lambda: create_model(name, pretrained=checkpoint))


def timm(name: str, checkpoint: str) -> float:
    """Seconds of `timm.create_model` with the same weights."""
    from timm import create_model

    return _timed(lambda: create_model(name, checkpoint_path=checkpoint))


def save(name: str, suffix: str, runs: str, directory: str) -> str:
    """Seconds of `torch.save`, `torch.save` with fsync, and `manifest.save`, in turn, as JSON."""
    import torch

    import manifest

    model = manifest.create_model(name)
    path = Path(directory)
    state = model.state_dict()

    def torch_save() -> None:
        torch.save(state, path / "plain.pt")

    def torch_save_durably() -> None:
        with (path / "durable.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def manifest_save() -> None:
        manifest.save(model, path / f"ours{suffix}", golden=False)

    seconds: dict[str, list[float]] = {"torch": [], "durable": [], "manifest": []}
    for turn in range(int(runs) + 1):
        for key, call in (("torch", torch_save), ("durable", torch_save_durably), ("manifest", manifest_save)):
            for left in path.iterdir():  # every save is of a new file, and none waits for another's bytes
                left.unlink()
            os.sync()
            took = _timed(call)
            if turn:
                seconds[key].append(took)
    return json.dumps(seconds)


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    kept = call()
    seconds = time.perf_counter() - started
    del kept
    return seconds


_MEASURES: dict[str, Callable[..., float | str]] = {
    "hash": hash_file,
    "names": names,
    "torch_names": torch_names,
    "digests": digests,
    "load": load,
    "open_clip": open_clip,
    "timm": timm,
    "save": save,
}

if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(_MEASURES[what](*arguments))

"""What is measured inside a fresh process, after its imports. Prints its result as the last line.

python benchmarks/inside.py hash CKPT
python benchmarks/inside.py names CKPT
python benchmarks/inside.py torch_names CKPT
python benchmarks/inside.py digests CKPT
python benchmarks/inside.py sketches CKPT
python benchmarks/inside.py blocks CKPT
python benchmarks/inside.py trust CKPT TRUST
python benchmarks/inside.py load CKPT full|fast|none LIBRARY
python benchmarks/inside.py open_clip|timm NAME CKPT
python benchmarks/inside.py tensors CKPT
python benchmarks/inside.py golden NAME RUNS DIRECTORY
python benchmarks/inside.py save NAME SUFFIX RUNS DIRECTORY
python benchmarks/inside.py save_sketched NAME PRECISION RUNS DIRECTORY
python benchmarks/inside.py count TENSORS RUNS DIRECTORY
python benchmarks/inside.py record NAME every|none RUNS DIRECTORY
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

_PAUSE = 3  # seconds; a system that gives unused memory back has done so


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


def sketches(checkpoint: str) -> float:
    """Seconds to open a checkpoint and sketch each of its tensors, on one thread and without digests."""
    from manifest.checkpoint import open_checkpoint
    from manifest.kinship.sketch import Sketching, can_be_sketched

    def sketch_all() -> None:
        opened = open_checkpoint(checkpoint)
        for tensor in filter(can_be_sketched, opened.tensors.values()):
            sketching = Sketching(tensor.dtype, tensor.numel)
            for block in opened.blocks(tensor):
                sketching.add(block)
            sketching.result()

    return _timed(sketch_all)


def blocks(checkpoint: str) -> float:
    """Seconds to open a checkpoint and add up the bytes of each of its tensors, as the least that reading is."""
    import numpy as np

    from manifest.checkpoint import open_checkpoint

    def read_all() -> int:
        opened = open_checkpoint(checkpoint)
        return sum(
            int(np.frombuffer(block, np.uint8).max())
            for tensor in opened.tensors.values()
            for block in opened.blocks(tensor)
        )

    return _timed(read_all)


def trust(checkpoint: str, trust_file: str) -> float:
    """Seconds to read a trust file and hold a signature to it, the libraries included that nothing else imports."""
    from manifest.checks.target import VerificationTarget
    from manifest.checks.trust import check_trust
    from manifest.schema.document import parse
    from manifest.storage.transaction import read_sidecars
    from manifest.storage.trust_files import trusted_signers

    contents = read_sidecars(Path(checkpoint))
    subject = VerificationTarget(Path(checkpoint), contents, parse(contents.manifest))
    return _timed(lambda: check_trust(subject, trusted_signers(None, trust_file)))


def load(checkpoint: str, verify: Any, library: str) -> float:
    """Seconds of `manifest.load`."""
    import manifest

    import_module(f"manifest.families.{library}.adapter")  # as an application has imported it before it loads anything
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


def tensors(checkpoint: str) -> float:
    """Seconds to load the tensors alone, as their own library does."""
    import torch
    from safetensors.torch import load_file

    if checkpoint.endswith(".safetensors"):
        return _timed(lambda: load_file(checkpoint))
    return _timed(lambda: torch.load(checkpoint, weights_only=True))


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

    return _in_turn(path, int(runs), {"torch": torch_save, "durable": torch_save_durably, "manifest": manifest_save})


def save_sketched(name: str, precision: str, runs: str, directory: str) -> str:
    """Seconds of `torch.save`, and of `manifest.save` with sketches and without them, in turn, as JSON."""
    import torch

    import manifest

    model, path = manifest.create_model(name, precision=precision), Path(directory)
    state = model.state_dict()
    saves: dict[str, Callable[[], object]] = {"torch": lambda: torch.save(state, path / "plain.pt")}
    for key, kinship in (("with", True), ("without", False)):
        saves[key] = partial(manifest.save, model, path / "ours.pt", golden=False, kinship=kinship)
    return _in_turn(path, int(runs), saves)


def _in_turn(path: Path, runs: int, saves: dict[str, Callable[[], object]]) -> str:
    """Seconds of several ways to save into a directory, after each has run once to warm up, as JSON."""
    seconds: dict[str, list[float]] = {key: [] for key in saves}
    for turn in range(runs + 1):
        for key, call in saves.items():
            for left in path.iterdir():  # every save is of a new file, and none waits for another's bytes
                left.unlink()
            os.sync()
            took = _timed(call)
            if turn:
                seconds[key].append(took)
    return json.dumps(seconds)


def record(name: str, when: str, runs: str, directory: str) -> str:
    """Seconds of `torch.save`, alone, with fsync, and recorded, and until the last has its manifest; in turn, as JSON.

    All are made while the recording is on, each when nothing of another is still going on: a system that gives unused
    memory back would slow down whoever writes after a pause.
    """
    import torch

    import manifest
    from manifest.storage.suppress_recording import suppress_recording
    from manifest.training.recording import recording

    model = manifest.create_model(name)
    path = Path(directory)
    saved = {"state_dict": model.state_dict(), "epoch": 1}

    def plain() -> None:
        with suppress_recording():
            torch.save(saved, path / "plain.pt")

    def durable() -> None:
        with suppress_recording(), (path / "plain.pt").open("wb") as file:
            torch.save(saved, file)
            file.flush()
            os.fsync(file.fileno())

    seconds: dict[str, list[float]] = {"torch": [], "durable": [], "call": [], "until the manifest": []}
    with recording(golden=when) as recorder:
        torch.save(saved, path / "first.pt")  # of several, as a training makes them
        recorder.wait()
        for turn in range(int(runs) + 1):
            took = {}
            for key, call in (
                ("torch", plain),
                ("durable", durable),
                ("call", lambda: torch.save(saved, path / "a.pt")),
            ):
                for left in path.iterdir():
                    left.unlink()
                os.sync()
                time.sleep(_PAUSE)
                took[key] = _timed(call)
            started = time.perf_counter()
            recorder.wait()
            took["until the manifest"] = took["call"] + time.perf_counter() - started
            for key, value in took.items():
                if turn:
                    seconds[key].append(value)
    return json.dumps(seconds)


def count(tensors: str, runs: str, directory: str) -> str:
    """Seconds to save and to verify a model of so many tensors, without golden outputs."""
    import manifest

    layers = import_module("layers")
    model, path = layers.stack(int(tensors)), Path(directory) / "many.pt"
    made_by = {"family": "callable", "model_name": "layers:stack", "arguments": {"tensors": int(tensors)}}

    def save() -> None:
        manifest.save(model, path, golden=False, **made_by)

    def verify() -> None:
        assert manifest.verify(path, allow=["layers"]).exit_code == 0

    seconds = {"save": sorted(_timed(save) for _ in range(int(runs)))}
    seconds["verify"] = sorted(_timed(verify) for _ in range(int(runs)))
    return json.dumps({what: each[len(each) // 2] for what, each in seconds.items()})


def golden(name: str, runs: str, directory: str) -> str:
    """Medians of seconds to ask, record, compare and diagnose a model's golden outputs, and the record's size; JSON."""
    import manifest
    from manifest.families import creation_of, family
    from manifest.golden.compare import compare
    from manifest.golden.floor import Built
    from manifest.golden.record import record
    from manifest.golden.thoroughness import Thoroughness

    model = manifest.create_model(name)
    adapter = family("open_clip")
    built = Built(adapter, adapter.capture(model, creation_of(model)).architecture, model.eval())
    inputs = adapter.inputs(built.architecture)
    answers = built.ask(inputs)

    def recorded(floor: Thoroughness) -> Any:
        return record(built, answers, answers, {}, thoroughness=floor, reach=True)

    brief = recorded(Thoroughness.QUICK)
    path = Path(directory) / "golden.safetensors"
    manifest.save(model, path, golden=True)
    wrong = manifest.answer(model, path)
    other = type(wrong).model_validate(wrong.model_dump() | _moved(wrong))
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: built.ask(inputs),
        "recording, floor quick": lambda: recorded(Thoroughness.QUICK),
        "recording, floor none": lambda: recorded(Thoroughness.NONE),
        "comparing the whole probe": lambda: compare(brief, built.ask(inputs).record()),
        "comparing the first samples": lambda: compare(brief, built.ask(inputs.first()).record(), brief=True),
        "diagnosing what nothing explains": lambda: manifest.compare(other, path),
    }
    measured = {what: sorted(_timed(call) for _ in range(int(runs)))[int(runs) // 2] for what, call in calls.items()}
    return json.dumps({**measured, "bytes": len(read_golden(path))})


def read_golden(path: Path) -> str:
    """The golden record of a checkpoint as JSON."""
    from manifest.storage.transaction import read_manifest

    return read_manifest(path).golden[0].model_dump_json()


def _moved(answers: Any) -> dict[str, Any]:
    """The same outputs, each a tenth longer, which no hypothesis explains."""
    return {
        field: {
            name: output.model_copy(
                update={"digest": "blake3:" + "0" * 64, "sketch": [1.1 * value for value in output.sketch]}
            ).model_dump()
            for name, output in getattr(answers, field).items()
        }
        for field in ("outputs", "brief")
    }


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
    "sketches": sketches,
    "blocks": blocks,
    "trust": trust,
    "load": load,
    "open_clip": open_clip,
    "timm": timm,
    "tensors": tensors,
    "save": save,
    "save_sketched": save_sketched,
    "record": record,
    "count": count,
    "golden": golden,
}

if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    print(_MEASURES[what](*arguments))

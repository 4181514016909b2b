"""Reading, showing, auditing and converting a checkpoint imports neither torch nor anything of a file."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch.package import PackageExporter

from tests.sampling import sampled

READ = """
import sys

for name in ("torch", "safetensors", "pickle"):
    sys.modules[name] = None  # importing it raises ImportError

from manifest.checkpoint import open_checkpoint

for path in sys.argv[1:]:
    with open_checkpoint(path) as checkpoint:
        print(checkpoint.container, *sorted({checkpoint.digest(item) for item in checkpoint.tensors.values()}))

assert "numpy" not in sys.modules, "numpy is for tensors that are not contiguous"
"""

COMMAND = """
import sys

for name in ("torch", "safetensors", "open_clip", "timm", "torchvision"):
    sys.modules[name] = None

from manifest.cli import main

for words in sys.argv[1].splitlines():
    sys.argv = ["manifest", *words.split("\t")]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words}: {end.code}")
"""

STATE = {"w": torch.arange(4.0), "b": torch.ones(2).bfloat16()}


def blocked(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_container_when_torch_cannot_be_imported_then_is_read(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 2)
    state = dict(model.state_dict())
    saved = {"state_dict": state, "args": argparse.Namespace(lr=1)}
    torch.save(saved, tmp_path / "model.pt")
    torch.save(saved, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "model.safetensors")
    save_torch_state_dict(state, tmp_path, max_shard_size=16, filename_pattern="shard{suffix}.safetensors")
    dcp.save(state, checkpoint_id=tmp_path / "distributed")
    torch.jit.save(torch.jit.script(model), tmp_path / "program.pt")
    with PackageExporter(tmp_path / "package.pt") as exporter:
        exporter.save_pickle("weights", "model.pkl", state)
    torch.export.save(torch.export.export(model, (torch.randn(1, 4),)), tmp_path / "program.pt2")
    numpy.savez_compressed(tmp_path / "model.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    expected = {
        "model.pt": "torch-zip",
        "old.pt": "torch-legacy",
        "model.safetensors": "safetensors",
        "shard.safetensors.index.json": "safetensors",
        "distributed": "dcp",
        "program.pt": "torchscript",
        "package.pt": "torch-package",
        "program.pt2": "torch-export",
        "model.npz": "npz",
    }
    paths = [tmp_path / name for name in expected]
    finished = blocked(READ, *paths)
    assert finished.returncode == 0, finished.stderr
    containers, digests = zip(*(line.split(maxsplit=1) for line in finished.stdout.splitlines()), strict=True)
    assert list(containers) == list(expected.values())
    assert len(set(digests)) == 1


def module() -> torch.nn.Module:
    return torch.nn.Linear(2, 3)


def sharded(path: Path) -> None:
    path.mkdir()
    save_file(STATE, path / "a.safetensors")
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"w": "a.safetensors", "b": "a.safetensors"}}')


def packaged(path: Path) -> None:
    with PackageExporter(path) as exporter:
        exporter.extern("torch.**")
        exporter.save_pickle("weights", "state.pkl", STATE)


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(module(), (torch.ones(1, 2),)), path)


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "torch-zip": ("a.pt", lambda path: torch.save(STATE, path)),
    "torch-legacy": ("a.pt", lambda path: torch.save(STATE, path, _use_new_zipfile_serialization=False)),
    "a module": ("a.pt", lambda path: torch.save(module(), path)),
    "safetensors": ("a.safetensors", lambda path: save_file(STATE, path)),
    "sharded": ("folder", sharded),
    "dcp": ("folder", lambda path: dcp.save({"model": STATE}, checkpoint_id=path)),
    "npz": ("a.npz", lambda path: numpy.savez_compressed(path, w=numpy.ones((2, 3), order="F"))),
    "torchscript": ("a.pt", lambda path: torch.jit.save(torch.jit.script(module()), path)),
    "torch-package": ("a.pt", packaged),
    "torch-export": ("a.pt2", exported),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("container", sampled(WRITERS, 3))
def test_command_when_torch_cannot_be_imported_then_answers_about_any_container(container: str, tmp_path: Path) -> None:
    name, write = WRITERS[container]
    path = tmp_path / name
    write(path)
    commands = [
        ("show", path),
        ("show", path, "--tensors"),
        ("show", path, "--format", "json"),
        ("audit", path),
        ("convert", path, tmp_path / "out.safetensors"),
    ]
    finished = blocked(COMMAND, "\n".join("\t".join(map(str, words)) for words in commands))
    assert finished.returncode == 0, finished.stderr

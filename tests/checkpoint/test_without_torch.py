"""Reading a checkpoint imports neither torch nor anything of a file."""

from __future__ import annotations

import argparse
import subprocess
import sys

import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch.package import PackageExporter

SCRIPT = """
import sys

for name in ("torch", "safetensors", "pickle"):
    sys.modules[name] = None  # importing it raises ImportError

from manifest.checkpoint import open_checkpoint

for path in sys.argv[1:]:
    with open_checkpoint(path) as checkpoint:
        print(checkpoint.container, *sorted({checkpoint.digest(item) for item in checkpoint.tensors.values()}))

assert "numpy" not in sys.modules, "numpy is for tensors that are not contiguous"
"""


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_every_container_when_torch_cannot_be_imported_then_is_read(tmp_path):
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
    paths = [str(tmp_path / name) for name in expected]
    finished = subprocess.run([sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    containers, digests = zip(*(line.split(maxsplit=1) for line in finished.stdout.splitlines()), strict=True)
    assert list(containers) == list(expected.values())
    assert len(set(digests)) == 1

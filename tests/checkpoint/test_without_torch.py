"""Reading a checkpoint imports neither torch nor anything of a file."""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch
from safetensors.torch import save_file

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


def test_every_container_when_torch_cannot_be_imported_then_is_read(tmp_path):
    state = {"w": torch.arange(4.0), "b": torch.ones(2).bfloat16()}
    saved = {"state_dict": state, "args": argparse.Namespace(lr=1)}
    torch.save(saved, tmp_path / "model.pt")
    torch.save(saved, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "model.safetensors")
    paths = [str(tmp_path / name) for name in ("model.pt", "old.pt", "model.safetensors")]
    finished = subprocess.run([sys.executable, "-c", SCRIPT, *paths], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    containers, digests = zip(*(line.split(maxsplit=1) for line in finished.stdout.splitlines()), strict=True)
    assert containers == ("torch-zip", "torch-legacy", "safetensors")
    assert len(set(digests)) == 1

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


def test_both_containers_when_torch_cannot_be_imported_then_are_read(tmp_path):
    state = {"w": torch.arange(4.0), "b": torch.ones(2).bfloat16()}
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, tmp_path / "model.pt")
    save_file(state, tmp_path / "model.safetensors")
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "model.pt"), str(tmp_path / "model.safetensors")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    zipped, flat = (line.split() for line in finished.stdout.splitlines())
    assert (zipped[0], flat[0]) == ("torch-zip", "safetensors")
    assert zipped[1:] == flat[1:]

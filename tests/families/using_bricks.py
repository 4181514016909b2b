"""Run in a process of its own, with bricks installed: its models are saved, verified, loaded and described."""

from __future__ import annotations

import sys
from pathlib import Path

import bricks
import torch

import manifest
from manifest.families import family_of

place = Path(sys.argv[1])
torch.manual_seed(0)
model = bricks.build("castle").bfloat16()
recorded = manifest.save(model, place / "wall.safetensors")
assert (recorded.architecture.family, recorded.architecture.name) == ("bricks", "castle")
assert {part.role for part in recorded.components} == {"backbone", "head"}
assert recorded.architecture.operators is not None
assert manifest.verify(place / "wall.safetensors").exit_code == 0

loaded = manifest.load(place / "wall.safetensors")
assert family_of(loaded).name == "bricks"
assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())

torch.save(bricks.build("garden").state_dict(), place / "garden.pt")
manifest.create(place / "garden.pt", "garden", family="bricks")
assert isinstance(manifest.load(place / "garden.pt"), bricks.Wall)

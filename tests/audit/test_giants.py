"""A checkpoint of a terabyte in two hundred files: what is in it is told from a few megabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import manifest
from tests.large import sparse_tensors

FILES, LAYERS, WIDTH = 200, 400, 16_384
_PROGRAM = """
import json, sys
from pathlib import Path
import manifest
report = manifest.audit(sys.argv[1], fast=True)
def kibibytes(name, field):
    found = [line.split()[1] for line in Path("/proc/self", name).read_text().splitlines() if line.startswith(field)]
    return int(found[0])
print(json.dumps([report.model_dump(mode="json"), kibibytes("io", "rchar") >> 10, kibibytes("status", "VmHWM")]))
"""
"""An audit, then KiB that the process read, and its memory at most, which what it maps is part of."""


@pytest.fixture
def giant(tmp_path: Path) -> Path:
    """The index of such a checkpoint, whose files are holes behind their headers."""
    names: dict[str, str] = {}
    for number in range(FILES):
        file = f"model-{number + 1:05}-of-{FILES:05}.safetensors"
        layers = range(number * LAYERS // FILES, (number + 1) * LAYERS // FILES)
        shapes = {name: shape for layer in layers for name, shape in _layer(layer).items()}
        sparse_tensors(tmp_path / file, shapes)
        names |= dict.fromkeys(shapes, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    return index


def _layer(number: int) -> dict[str, tuple[int, ...]]:
    name = f"model.layers.{number}"
    projections = {f"{name}.self_attn.{each}_proj.weight": (WIDTH, WIDTH // 4) for each in "qkvo"}
    mixing = {f"{name}.mlp.{each}_proj.weight": (WIDTH, 2 * WIDTH) for each in ("up", "down")}
    return {**projections, **mixing, f"{name}.input_layernorm.weight": (WIDTH,)}


@pytest.mark.skipif(sys.platform != "linux", reason="what a process read is counted as Linux does")
def test_giant_is_audited_from_headers_and_samples(giant: Path) -> None:
    assert sum(path.stat().st_size for path in giant.parent.iterdir()) > 10**12
    done = subprocess.run([sys.executable, "-c", _PROGRAM, giant], capture_output=True, text=True, check=True)
    report, read, memory = json.loads(done.stdout)
    assert report["safety"] == "safe"
    assert f"{7 * LAYERS:,} tensors" in report["rungs"][0]["reason"]
    assert read < 64 << 10
    assert memory < 1 << 20


def test_giant_without_one_of_its_files_is_not_whole(giant: Path) -> None:
    (giant.parent / "model-00123-of-00200.safetensors").unlink()
    report = manifest.audit(giant, fast=True)
    assert report.safety == "unreadable"
    assert [finding.rule for finding in report.findings()] == ["F008"]
    assert "model-00123-of-00200.safetensors" in next(iter(report.findings())).message

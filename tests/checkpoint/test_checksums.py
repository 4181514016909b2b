"""Values that do not have the checksum that they were written with."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy
import pytest
import torch

from manifest.checkpoint import open_checkpoint, require_undamaged
from manifest.errors import CheckpointError
from manifest.workflows.auditing import audit
from manifest.workflows.converting import convert

VALUES = torch.arange(1000.0)
PATTERN = VALUES.numpy().tobytes()[400:440]


def torch_zip(path: Path) -> None:
    torch.save({"w": VALUES}, path)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        numpy.savez(file, w=VALUES.numpy())


def torchscript(path: Path) -> None:
    module = torch.nn.Module()
    module.register_buffer("w", VALUES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), path)


@pytest.fixture(params=[torch_zip, npz, torchscript], ids=lambda write: write.__name__)
def flipped(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file in which one bit of the values changed after it was written."""
    path = tmp_path / "flipped"
    request.param(path)
    assert audit(path).passed
    data = bytearray(path.read_bytes())
    data[data.index(PATTERN)] ^= 1
    path.write_bytes(data)
    return path


def test_bit_when_flipped_in_the_values_then_the_audit_names_the_record(flipped: Path) -> None:
    report = audit(flipped)
    assert report.exit_code == 1
    found = [item for item in report.findings() if item.rule == "F002"]
    assert len(found) == 1
    assert "does not have the checksum it was written with" in found[0].message


def test_bit_when_flipped_in_the_values_then_nothing_is_converted(flipped: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^flipped: record '.*' does not have its checksum") as caught:
        convert(flipped, tmp_path / "out.safetensors")
    assert caught.value.rule == "F002"
    assert not (tmp_path / "out.safetensors").exists()


def test_array_when_compressed_then_its_checksum_is_that_of_its_values(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        numpy.savez_compressed(file, w=VALUES.numpy())
    with open_checkpoint(tmp_path / "a.npz") as checkpoint:
        require_undamaged(checkpoint)


def test_file_when_written_without_checksums_then_has_none_to_compare(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch_zip(tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        require_undamaged(checkpoint)

"""Real checkpoints, and forged ones that no library would write."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from manifest.checkpoint import Checkpoint, open_checkpoint
from manifest.checkpoint.pickles.torch_objects import TorchObjects
from manifest.digests import tensor_digest
from manifest.errors import CheckpointError
from manifest.escaping import printable

sys.path.append(str(Path(__file__).parents[2] / "fixtures" / "hostile"))
from hostile_building import Forge


def live_values(tensor: torch.Tensor) -> bytes:
    """The bytes that the tensor's values have in memory once contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(plain.untyped_storage())[: plain.numel() * plain.element_size()]


def live_digest(tensor: torch.Tensor) -> str:
    """The tensor digest of the values that a tensor has in memory."""
    return tensor_digest(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), live_values(tensor))


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path)


@pytest.fixture(scope="session")
def forge_class() -> type[Forge]:
    return Forge


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """torch.save into a new file."""

    def saved(value: Any, name: str = "model.pt", **options: Any) -> Path:
        path = tmp_path / name
        torch.save(value, path, **options)
        return path

    return saved


@pytest.fixture
def refusal() -> Callable[[Path], CheckpointError]:
    """The error that opening a file ends with, once it is known to be one sentence about that file."""

    def refused(path: Path) -> CheckpointError:
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(path)
        message = str(caught.value)
        assert message.startswith(f"{printable(path.name)}: ")
        assert message.endswith(".")
        assert message.isprintable()
        assert ". " not in message
        return caught.value

    return refused


@pytest.fixture(scope="session")
def strangers() -> Callable[[Checkpoint], tuple[str, ...]]:
    """The globals of a checkpoint that are not in the allow-list of constructors."""
    known = TorchObjects().constructors
    return lambda checkpoint: tuple(name for name in checkpoint.globals if name not in known)


@pytest.fixture(scope="session")
def values() -> Callable[[torch.Tensor], bytes]:
    return live_values


@pytest.fixture(scope="session")
def check_weights() -> Callable[[Checkpoint, Mapping[str, torch.Tensor]], None]:
    """Holds the weights of a checkpoint to being exactly those of a live state dict, in whatever order."""

    def check(checkpoint: Checkpoint, state: Mapping[str, torch.Tensor]) -> None:
        found = {name: checkpoint.digest(tensor) for name, tensor in checkpoint.tensors.items()}
        assert found == {name: live_digest(tensor) for name, tensor in state.items()}
        assert checkpoint.unlisted == {}

    return check

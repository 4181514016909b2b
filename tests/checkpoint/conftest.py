"""Real checkpoints, and forged ones that no library would write."""

from __future__ import annotations

import struct
import zipfile
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


def live_values(tensor: torch.Tensor) -> bytes:
    """The bytes that the tensor's values have in memory once contiguous."""
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(plain.untyped_storage())[: plain.numel() * plain.element_size()]


def live_digest(tensor: torch.Tensor) -> str:
    """The tensor digest of the values that a tensor has in memory."""
    return tensor_digest(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), live_values(tensor))


class Forge:
    """Writes files byte by byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def text(value: str) -> bytes:
        raw = value.encode("utf-8", "surrogatepass")
        return b"X" + struct.pack("<I", len(raw)) + raw

    @staticmethod
    def number(value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def numbers(self, values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(self.number, values)) + b"t"

    @staticmethod
    def named(module: str, name: str) -> bytes:
        """A global."""
        return f"c{module}\n{name}\n".encode()

    def file(self, data: bytes, name: str = "forged.pt") -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def archive(
        self,
        pickle: bytes,
        storages: Mapping[str, bytes] | None = None,
        *,
        extra: Mapping[str, bytes] | None = None,
        without: tuple[str, ...] = (),
        compression: int = zipfile.ZIP_STORED,
        byteorder: bytes = b"little",
    ) -> Path:
        """What torch.save would write for a pickle and its storages."""
        records = {
            "data.pkl": pickle,
            "byteorder": byteorder,
            **{f"data/{key}": value for key, value in (storages or {}).items()},
            "version": b"3\n",
            **(extra or {}),
        }
        path = self.folder / "forged.pt"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in records.items():
                if name not in without:
                    archive.writestr(name if name.startswith("/") else f"forged/{name}", data)
        return path

    def legacy(
        self,
        pickle: bytes,
        storages: Mapping[str, bytes] | None = None,
        *,
        magic: bytes = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        version: bytes = b"\x80\x02M\xe9\x03.",
        sizes: bytes = b"\x80\x02}.",
        keys: bytes | None = None,
        itemsize: int = 4,
        tail: bytes = b"",
    ) -> Path:
        """What torch.save would have written before torch 1.6."""
        storages = storages or {}
        listed = b"\x80\x02](" + b"".join(map(self.text, storages)) + b"e."
        stored = [struct.pack("<q", len(values) // itemsize) + values for values in storages.values()]
        parts = (magic, version, sizes, pickle, listed if keys is None else keys, *stored, tail)
        return self.file(b"".join(parts))

    def storage(
        self,
        key: str = "0",
        elements: Any = 4,
        storage_class: str = "torch FloatStorage",
        view: bytes = b"",
    ) -> bytes:
        """The persistent id of a storage, as opcodes; in the legacy form a view, or none, comes behind."""
        module, name = storage_class.split(" ")
        return (
            b"("
            + self.text("storage")
            + self.named(module, name)
            + self.text(key)
            + self.text("cpu")
            + self.number(elements)
            + view
            + b"tQ"
        )

    def tensor(
        self,
        key: str = "0",
        elements: int = 4,
        offset: int = 0,
        shape: tuple[int, ...] = (4,),
        stride: tuple[int, ...] = (1,),
        storage_class: str = "torch FloatStorage",
        metadata: bytes = b"",
        view: bytes = b"",
    ) -> bytes:
        """A call of `_rebuild_tensor_v2`, as opcodes."""
        return (
            self.named("torch._utils", "_rebuild_tensor_v2")
            + b"("
            + self.storage(key, elements, storage_class, view)
            + self.number(offset)
            + self.numbers(shape)
            + self.numbers(stride)
            + b"\x89}"
            + metadata
            + b"tR"
        )

    def state(self, **entries: bytes) -> bytes:
        """A whole pickle of a dictionary."""
        items = b"".join(self.text(name) + value for name, value in entries.items())
        return b"\x80\x02}(" + items + b"u."

    def safetensors(self, header: bytes | str, data: bytes = b"", length: int | None = None) -> Path:
        raw = header.encode() if isinstance(header, str) else header
        prefix = struct.pack("<Q", len(raw) if length is None else length)
        return self.file(prefix + raw + data, "forged.safetensors")


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

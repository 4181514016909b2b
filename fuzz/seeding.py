"""What fuzzing begins with: small files by the libraries themselves, one folder for each target.

Run by `run.py` in a process of its own, so that torch is never in the one that is watched.
"""

from __future__ import annotations

import io
import json
import pickle
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import torch
from bundling import pack, pack_directory
from safetensors.torch import save as save_safetensors
from torch.distributed import checkpoint as dcp

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3).bfloat16(), "n": torch.tensor(7)}
_MOST_BYTES = 200_000


def write_seeds(folder: Path, extra: list[Path]) -> None:
    """Fill `folder/<target>` for every target.

    Args:
        folder: Where to.
        extra: Directories of more seeds: files for every target of single files, and directories that are checkpoints.
    """
    zips, legacy = _torch_zips(), _legacy()
    seeds = {
        "zip": [*zips, _without_checksums(), _torchscript(), _package(), *_exported()],
        "legacy": legacy,
        "pickle": [*map(_pickle_in, zips), *(data[_preamble_end(data) :] for data in legacy), *_plain_pickles()],
        "safetensors": _safetensors(),
        "npz": _npz(),
        "dcp": _distributed(),
        "index": _indexed(),
    }
    for path in (path for directory in extra for path in sorted(directory.rglob("*"))):
        if (path / ".metadata").is_file():
            seeds["dcp"].append(pack_directory(path, ".metadata"))
        elif path.name.endswith(".index.json"):
            seeds["index"].append(pack_directory(path.parent, path.name))
        elif path.is_file() and path.stat().st_size <= _MOST_BYTES:
            for target in ("zip", "legacy", "pickle", "safetensors", "npz"):
                seeds[target].append(path.read_bytes())
    for target, files in seeds.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for index, data in enumerate(files):
            if len(data) <= _MOST_BYTES:
                (folder / target / f"seed-{index:03}").write_bytes(data)


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _objects() -> list[Any]:
    """What people save."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    dense = torch.eye(4)
    ema = OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items())
    complex_ = torch.arange(4).to(torch.complex64)
    return [
        STATE,
        {"state_dict": {**STATE, "turned": STATE["a.weight"].t(), "tied": STATE["a.weight"]}, "epoch": 3},
        {"model": model.state_dict(), "model_ema": ema, "optimizer": optimizer.state_dict(), "args": {"lr": 0.1}},
        model,
        torch.nn.TransformerEncoderLayer(4, 2, 4),
        torch.nn.Parameter(torch.ones(2, 0, 3)),
        {"coo": dense.to_sparse(), "csr": dense.to_sparse_csr(), "bsr": dense.to_sparse_bsr((2, 2))},
        {
            "tensor": torch.quantize_per_tensor(dense, 0.1, 3, torch.quint8),
            "channel": torch.quantize_per_channel(dense, torch.ones(4), torch.zeros(4).long(), 0, torch.qint8),
        },
        {"conj": complex_.conj(), "neg": torch._neg_view(torch.ones(3)), "expanded": torch.ones(1, 3).expand(5, 3)},
        {"steps": numpy.float64(3), "array": numpy.arange(3), "weights": {"w": torch.ones(2, dtype=torch.uint16)}},
        [torch.zeros(1), {"deep": {"deeper": {"w": torch.ones(1)}}}],
    ]


def _torch_zips() -> list[bytes]:
    found = [_saved(value) for value in _objects()]
    return [*found, *(_saved(_objects()[1], pickle_protocol=protocol) for protocol in (3, 4, 5))]


def _without_checksums() -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return _saved(_objects()[1])
    finally:
        torch.serialization.set_crc32_options(True)


def _legacy() -> list[bytes]:
    found = [_saved(value, _use_new_zipfile_serialization=False) for value in _objects()]
    old = {"_use_new_zipfile_serialization": False}
    return [*found, *(_saved(_objects()[1], pickle_protocol=protocol, **old) for protocol in (3, 4, 5))]


def _preamble_end(data: bytes) -> int:
    file = io.BytesIO(data)
    for _ in range(3):
        pickle.load(file)
    return file.tell()


def _pickle_in(archive: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return opened.read(next(name for name in opened.namelist() if name.endswith("/data.pkl")))


def _plain_pickles() -> list[bytes]:
    value = {"a": [1, 2.5, None, True, 2**70, -(2**40)], "b": (b"x" * 300, "é" * 300, {1}, frozenset((2,)))}
    return [pickle.dumps([value, value["a"], bytearray(3), complex(1, 2)], protocol) for protocol in range(6)]


class _Scripted(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.register_buffer("mask", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.mask


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(_Scripted(), torch.ones(1, 2)), buffer)
    return buffer.getvalue()


def _package() -> bytes:
    buffer = io.BytesIO()
    with torch.package.PackageExporter(buffer) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "weights.pkl", STATE)
        exporter.save_pickle("model", "average.pkl", {"ema": STATE, "epoch": 1})
        exporter.save_source_string("code", "x = 1\n")
    return buffer.getvalue()


def _exported() -> list[bytes]:
    buffer = io.BytesIO()
    program = torch.export.export(_Scripted(), (torch.ones(1, 2),))
    torch.export.save(program, buffer)
    old = io.BytesIO()
    with zipfile.ZipFile(old, "w") as archive:
        archive.writestr("version", "8.1")
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", _saved(STATE))
    return [_without_large_records(buffer.getvalue()), old.getvalue()]


def _without_large_records(archive: bytes) -> bytes:
    """A program is mostly JSON that is never read."""
    smaller = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as opened, zipfile.ZipFile(smaller, "w") as rewritten:
        for name in opened.namelist():
            rewritten.writestr(name, opened.read(name)[: None if "weights" in name else 1000])
    return smaller.getvalue()


def _safetensors() -> list[bytes]:
    names = "bool uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 bfloat16 float32 float64 complex64 "
    names += "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
    every = {name: torch.zeros(2, 3).to(getattr(torch, name)) for name in names.split()}
    packed = torch.zeros(2, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    return [
        save_safetensors(STATE, {"format": "pt"}),
        save_safetensors({**every, "float4": packed}),
        save_safetensors({"module.scalar": torch.tensor(1.0), "module.empty": torch.ones(0, 4)}),
    ]


def _npz() -> list[bytes]:
    arrays = {"w": numpy.arange(6.0).reshape(2, 3), "f": numpy.asfortranarray(numpy.ones((2, 3), ">i4"))}
    arrays |= {
        name: numpy.ones(3, name) for name in ("bool", "u1", "u2", "i8", "f2", "c8", ">c16", "U3", "S2", "M8[s]")
    }
    arrays |= {"scalar": numpy.array(1.0), "record": numpy.zeros(1, [("x", "i4")])}
    arrays["object"] = numpy.array([None])
    found = []
    for save in (numpy.savez, numpy.savez_compressed):
        for chosen in (arrays, {"w": arrays["w"], "f": arrays["f"]}):
            buffer = io.BytesIO()
            save(buffer, **chosen)
            found.append(buffer.getvalue())
    return found


def _distributed() -> list[bytes]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for index, state in enumerate((STATE, {"model": STATE, "optim": {"state": {"m": torch.ones(2)}}, "epoch": 3})):
            directory = Path(folder, str(index))
            dcp.save(state, checkpoint_id=directory, no_dist=True)
            found.append(pack_directory(directory, ".metadata"))
    return [*found, _distributed_in_pieces()]


def _distributed_in_pieces() -> bytes:
    """A tensor in a grid of chunks, two to a file, as several processes write it."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    whole = torch.arange(24.0).reshape(4, 6)
    files: dict[str, bytes] = {}
    storage_data: dict[MetadataIndex, _StorageInfo] = {}
    chunks = []
    for rank, row in enumerate((0, 2)):
        name = f"__{rank}_0.distcp"
        files[name] = b""
        for column in (0, 3):
            archive = _saved(whole[row : row + 2, column : column + 3].clone())
            offsets = torch.Size((row, column))
            chunks.append(ChunkStorageMetadata(offsets, torch.Size((2, 3))))
            place = _StorageInfo(name, len(files[name]), len(archive))
            storage_data[MetadataIndex("w", offsets, len(chunks) - 1)] = place
            files[name] += archive
    described = TensorStorageMetadata(TensorProperties(torch.float32), whole.shape, chunks)
    metadata = Metadata({"w": described}, {"w": ("model", "w")}, storage_data)
    return pack({".metadata": pickle.dumps(metadata), **files})


def _indexed() -> list[bytes]:
    halves = {"one": {"module.a": torch.ones(2)}, "two": {"module.b": torch.ones(3).half(), "module.c": torch.ones(1)}}
    found = []
    for ending, save in (("safetensors", save_safetensors), ("bin", _saved)):
        shards = {f"{name}.{ending}": save(half) for name, half in halves.items()}
        places = {name: f"{half}.{ending}" for half, names in halves.items() for name in names}
        index = json.dumps({"metadata": {"total_size": 16}, "weight_map": places}, indent=2).encode()
        found.append(pack({f"model.{ending}.index.json": index, **shards}))
    return found


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]), list(map(Path, sys.argv[2:])))

"""Whatever is done to the bytes of a good file, opening it gives a checkpoint or a refusal, and nothing else."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as save_safetensors

from manifest.checkpoint import open_checkpoint
from manifest.errors import CheckpointError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(3).bfloat16(), "n": torch.tensor(7)}


def torch_zip(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {**STATE, "turned": STATE["a.weight"].t()}, "epoch": 3}, buffer, **options)
    return buffer.getvalue()


def without_checksums() -> bytes:
    torch.serialization.set_crc32_options(False)
    try:
        return torch_zip()
    finally:
        torch.serialization.set_crc32_options(True)


def legacy(**options: object) -> bytes:
    return torch_zip(_use_new_zipfile_serialization=False, **options)


FILES = {
    "torch-zip": torch_zip(),
    "torch-zip without checksums": without_checksums(),  # so that damage to the pickle reaches the pickle machine
    "torch-zip of protocol 5 without checksums": torch_zip(pickle_protocol=5),
    "torch-legacy": legacy(),
    "torch-legacy of protocol 4": legacy(pickle_protocol=4),
    "safetensors": save_safetensors(STATE, {"format": "pt"}),
}

damages = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("flip"), st.floats(0, 1), st.integers(0, 7)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.integers(1, 64)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.integers(0, 255)),
        st.tuples(st.just("copy"), st.floats(0, 1), st.integers(1, 64)),
    ),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damage: list[tuple[str, float, int]]) -> bytes:
    changed = bytearray(data)
    for kind, place, value in damage:
        position = int(place * (len(changed) - 1)) if changed else 0
        if kind == "cut":
            del changed[position : position + value]
        elif kind == "insert" or not changed:
            changed.insert(position, value % 256)
        elif kind == "copy":
            changed[position:position] = changed[position // 2 : position // 2 + value]
        elif kind == "flip":
            changed[position] ^= 1 << value
        else:
            changed[position] = value
    return bytes(changed)


@pytest.mark.parametrize("kind", FILES)
@settings(max_examples=400)
@given(damage=damages)
def test_file_when_damaged_then_opens_or_is_refused(kind, damage):
    data = damaged(FILES[kind], damage)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "damaged.pt")
        path.write_bytes(data)
        try:
            with open_checkpoint(path) as checkpoint:
                for tensor in checkpoint.tensors.values():
                    assert 0 <= tensor.storage[0] <= tensor.offset <= tensor.storage[1] <= len(data)
                    checkpoint.digest(tensor)
                checkpoint.aliases()
        except CheckpointError as error:
            assert error.rule in ("F001", "F002", "F003", "F004")
            assert str(error).isprintable()

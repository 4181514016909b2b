"""Writing weights as safetensors, tensor by tensor, without torch and without holding them in memory.

The header is written as the reference writer does it: tensors by falling element size and then by name, padded to eight
bytes. Tied weights cannot be expressed by the format; safetensors' own `save_model` notes the name that it leaves out
in the metadata, `{left out: kept}`, and so it is done here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

from manifest.checkpoint.opening import Checkpoint
from manifest.checkpoint.tensors import SAFETENSORS_CODES, CompositeTensor
from manifest.errors import CheckpointError
from manifest.escaping import printable

_CODES = {dtype: code for code, dtype in SAFETENSORS_CODES.items()}
_ALIGNMENT = 8


def write_safetensors(checkpoint: Checkpoint, file: BinaryIO, *, aliases: Mapping[str, str]) -> None:
    """Write the chosen weights of an open checkpoint, by their names without wrapper prefix.

    Args:
        checkpoint: The weights.
        file: Where to, from its beginning on.
        aliases: Names to leave out, each with the name that is kept for it; noted in the metadata.

    Raises:
        CheckpointError: `F004` when a tensor cannot be written in this format; nothing has been written then.
    """
    check_writable(checkpoint)
    written = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in aliases}
    ordered = sorted(written, key=lambda name: (-written[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt", **aliases}}
    position = 0
    for name in ordered:
        tensor = written[name]
        shape = list(tensor.shape)
        if tensor.dtype == "float4_e2m1fn_x2":
            shape[-1] *= 2  # the format counts four-bit elements, torch bytes of two
        end = position + tensor.nbytes
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        for block in checkpoint.blocks(written[name]):
            file.write(block)


def check_writable(checkpoint: Checkpoint) -> None:
    """Refuse weights that safetensors cannot hold, by the first of them."""
    if checkpoint.unlisted:
        name, kind = next(iter(checkpoint.unlisted.items()))
        raise _unwritable(name, kind)
    for name, tensor in checkpoint.tensors.items():
        if isinstance(tensor, CompositeTensor):
            raise _unwritable(name, f"stored as {tensor.layout}")
        if tensor.dtype not in _CODES or (tensor.dtype == "float4_e2m1fn_x2" and not tensor.shape):
            raise _unwritable(name, f"of {tensor.dtype}")
        if name == "__metadata__":
            raise _unwritable(name, "called like the metadata of safetensors")


def _unwritable(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"tensor '{printable(name)}' is {what}, which safetensors cannot hold; convert it to a plain tensor first.",
        rule="F004",
    )

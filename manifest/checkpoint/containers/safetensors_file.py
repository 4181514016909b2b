"""The safetensors container: eight bytes of header length, a JSON header, then the values.

Stricter than the format's reference reader where readers differ: a key given twice, a field of the wrong JSON type and
text that is not Unicode are refused. The format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from manifest.checkpoint.contents import Container, Contents, StateDictCandidate, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.strict_json import read_object
from manifest.checkpoint.tensors import (
    ITEM_SIZES,
    MOST_DIMENSIONS,
    MOST_TENSORS,
    SAFETENSORS_CODES,
    StridedTensor,
    row_major,
)
from manifest.errors import CheckpointError
from manifest.escaping import printable

MOST_HEADER_BYTES = 100_000_000
"""The reference reader's own limit."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}
_WITHOUT_TORCH_TYPE = {"F6_E2M3", "F6_E3M2"}


def recognises(sniffed: Sniffed) -> bool:
    """Whether the bytes look like a header length and the beginning of its JSON."""
    beginning = sniffed.file[: _LENGTH_BYTES + 1]
    if len(beginning) <= _LENGTH_BYTES:
        return False
    length = int.from_bytes(beginning[:_LENGTH_BYTES], "little")
    first = beginning[_LENGTH_BYTES:]
    if first == b"{":
        # A text whose ninth character is a brace is a text: as a length it would be some exabytes.
        return not beginning[:_LENGTH_BYTES].decode("latin-1").isprintable()
    return first in b'[" \t\r\n' and 0 < length <= len(sniffed.file) - _LENGTH_BYTES


def read(file: FileBytes) -> Contents:
    """Tensors and metadata of a safetensors file.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F001` when it holds no tensor, `F004` when an
            element type has no equivalent in torch.
    """
    header, data_start = _header(file)
    metadata = _metadata(header.pop(_METADATA, {}))
    if len(header) > MOST_TENSORS:
        raise CheckpointError(
            f"the header lists {len(header):,} tensors, more than the limit of {MOST_TENSORS:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    if not header:
        raise CheckpointError(
            "the safetensors header lists no tensor, so it holds no weights; pass a file that has some.", rule="F001"
        )
    stored = {name: _tensor(name, entry, data_start, len(file)) for name, entry in header.items()}
    _check_coverage(stored.values(), data_start, len(file))
    prefix, tensors = strip_prefixes(_with_tied(stored, metadata))
    return Contents((StateDictCandidate(dict(tensors), prefix=prefix),), metadata=metadata)


CONTAINER = Container("safetensors", recognises, alone(read))


def _header(file: FileBytes) -> tuple[dict[str, Any], int]:
    """The header as JSON, and the offset at which the values begin."""
    length = int.from_bytes(file[:_LENGTH_BYTES], "little")
    if length > MOST_HEADER_BYTES:
        raise CheckpointError(
            f"the safetensors header claims {length:,} bytes, over the limit of {MOST_HEADER_BYTES:,}; "
            "get the file again, and do not load it unless you know who made it.",
            rule="F003",
        )
    data_start = _LENGTH_BYTES + length
    if data_start > len(file):
        raise _malformed(
            f"the safetensors header claims {length:,} bytes, but only {len(file) - _LENGTH_BYTES:,} follow"
        )
    raw = file[_LENGTH_BYTES:data_start]
    if not raw.startswith(b"{"):
        raise _malformed(f"the safetensors header begins with {raw[:1]!r} where '{{' was expected")
    return read_object(raw, "the safetensors header", _malformed), data_start


def _metadata(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _malformed(f"'{_METADATA}' in the safetensors header is not an object of strings")
    for key, text in value.items():
        if not isinstance(text, str):
            raise _malformed(f"'{_METADATA}' in the safetensors header has no string under '{printable(key)}'")
    return value


def _tensor(name: str, entry: Any, data_start: int, file_size: int) -> StridedTensor:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise _malformed(f"tensor '{printable(name)}' is not described by exactly dtype, shape and data_offsets")
    dtype = _dtype(name, entry["dtype"])
    shape = _integers(name, "shape", entry["shape"])
    if len(shape) > MOST_DIMENSIONS:
        raise _malformed(f"tensor '{printable(name)}' has {len(shape):,} dimensions, more than {MOST_DIMENSIONS}")
    if dtype == "float4_e2m1fn_x2":
        # The format counts four-bit elements, torch counts bytes of two.
        if not shape or shape[-1] % 2:
            raise _malformed(f"tensor '{printable(name)}' of four-bit elements has an odd last dimension")
        shape = (*shape[:-1], shape[-1] // 2)
    offsets = _integers(name, "data_offsets", entry["data_offsets"])
    if len(offsets) == 2 and offsets[0] <= offsets[1] > file_size - data_start:
        raise _malformed(
            f"it is cut short, or its header is wrong: tensor '{printable(name)}' ends {offsets[1]:,} bytes into the "
            f"data, and {max(0, file_size - data_start):,} bytes of it are there"
        )
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _malformed(
            f"tensor '{printable(name)}' has the data offsets {_numbers(offsets)}, "
            f"which are no range of the {file_size - data_start:,} bytes of data"
        )
    begin, end = offsets
    expected = math.prod(shape) * ITEM_SIZES[dtype]
    if end - begin != expected:
        raise _malformed(
            f"tensor '{printable(name)}' has {end - begin:,} bytes where its shape {_numbers(shape)} of {dtype} "
            f"takes {expected:,}"
        )
    start = data_start + begin
    return StridedTensor(name, dtype, shape, row_major(shape), start, (start, data_start + end))


def _dtype(name: str, code: Any) -> str:
    if isinstance(code, str) and code in SAFETENSORS_CODES:
        return SAFETENSORS_CODES[code]
    if isinstance(code, str) and code in _WITHOUT_TORCH_TYPE:
        raise CheckpointError(
            f"tensor '{printable(name)}' has elements of {code}, which torch has no type for; "
            "convert it to another type.",
            rule="F004",
        )
    shown = printable(code) if isinstance(code, str) else type(code).__name__
    raise _malformed(f"tensor '{printable(name)}' has the unknown element type '{shown}'")


def _with_tied(stored: dict[str, StridedTensor], metadata: dict[str, str]) -> dict[str, StridedTensor]:
    """The tensors, and those that `save_model` left out because they are tied: it notes `{left out: kept}`."""
    tied = {left_out: kept for left_out, kept in metadata.items() if kept in stored and left_out not in stored}
    return {**stored, **{left_out: replace(stored[kept], name=left_out) for left_out, kept in tied.items()}}


def _integers(name: str, field: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(item) is int and 0 <= item < 2**63 for item in value):
        raise _malformed(f"'{field}' of tensor '{printable(name)}' is not a list of natural numbers below 2^63")
    return tuple(value)


def _numbers(values: tuple[int, ...]) -> str:
    return printable(str(list(values)))


def _check_coverage(tensors: Iterable[StridedTensor], data_start: int, file_size: int) -> None:
    """Refuse bytes that belong to two tensors or to none."""
    position = data_start
    for tensor in sorted(tensors, key=lambda tensor: tensor.storage):
        start, end = tensor.storage
        if start < position:
            raise _malformed(
                f"tensor '{printable(tensor.name)}' overlaps the one before it by {position - start:,} bytes"
            )
        if start > position:
            raise _malformed(f"{start - position:,} bytes before tensor '{printable(tensor.name)}' belong to no tensor")
        position = end
    if position != file_size:
        raise _malformed(f"{file_size - position:,} bytes at the end of the file belong to no tensor")


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with safetensors.", rule="F002")

"""numpy's archives of arrays: a zip with one `.npy` for each, stored or deflated.

Arrays of numbers are read, in either byte order and either order of dimensions. Arrays of Python objects are pickles,
which numpy unpickles where `allow_pickle` says so: what they name is listed, and nothing of it runs. The format of an
array: `numpy/lib/_format_impl.py`, versions 1 to 3.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from manifest.checkpoint.containers.zip_records import Record, read_records
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.gathering import inflated_head
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.pickles.pickle_vm import MOST_PICKLE_BYTES, interpret
from manifest.checkpoint.pickles.torch_objects import is_natural
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.storage_layout import check_expansion
from manifest.checkpoint.tensors import ITEM_SIZES, MOST_DIMENSIONS, StoredTensor, StridedTensor, row_major
from manifest.errors import CheckpointError
from manifest.escaping import printable

_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000  # numpy's own limit
_PREAMBLE = 12
_HEADER = re.compile(
    r"\{'descr': (?:'([<>|=]?)([a-zA-Z?])(\d*)(\[\w+\])?'|(\[.*\])), 'fortran_order': (True|False), "
    # A comma between numbers, or there would be endlessly many ways to read a row of digits.
    r"'shape': \(((?:\d{1,20}L?, ?)*(?:\d{1,20}L?)?)\),? *\}\s*",
    re.DOTALL,
)
_OBJECTS = re.compile(r", ?'[<>|=]?O\d*'")
"""A field of a record that is an object, as numpy describes it."""
_DTYPES = {
    "b1": "bool",
    "?": "bool",
    **{f"{kind}{size}": f"{name}{8 * size}" for kind, name in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    "c8": "complex64",
    "c16": "complex128",
}
_KINDS = {
    "O": "an array of Python objects, which is a pickle",
    "U": "an array of texts",
    "S": "an array of bytes",
    "V": "an array of raw bytes or records",
    "M": "an array of dates",
    "m": "an array of durations",
}


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is an archive of nothing but arrays."""
    return bool(sniffed.names) and all(name.endswith(_SUFFIX) for name in sniffed.names)


def read(file: FileBytes) -> Contents:
    """Arrays of an archive, by their names.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F001` when it holds no array of numbers.
    """
    stored: dict[str, StoredTensor] = {}
    unlisted: dict[str, str] = {}
    named: dict[str, None] = {}
    refused: dict[str, None] = {}
    left = MOST_PICKLE_BYTES
    records = tuple(read_records(file, lambda _: True, case_matters=True).values())
    for record in records:
        name = record.name.removesuffix(_SUFFIX)
        if not name:
            raise _malformed(f"the archive has the name '{printable(record.name)}', which is none of an array")
        array = _array(file, name, record)
        if isinstance(array, StridedTensor):
            stored[name] = array
        else:
            unlisted[name] = array.kind
            if array.is_pickled:
                pickle = _pickle(file, record, array.start, left)
                left -= len(pickle)
                found = interpret(pickle, {}, _no_persistent_id)
                named.update(dict.fromkeys(found.globals))
                refused.update(dict.fromkeys(found.refused_opcodes))
    if not stored:
        name, kind = next(iter(unlisted.items()))
        raise CheckpointError(f"'{printable(name)}' is {kind}, and no array of numbers is there.", rule="F001")
    check_expansion("all arrays", sum(tensor.nbytes for tensor in stored.values()), len(file), 1 << 30)
    prefix, tensors = strip_prefixes(stored)
    candidate = StateDictCandidate(tensors, prefix=prefix, unlisted=unlisted)
    return Contents((candidate,), tuple(named), tuple(refused), records=records)


CONTAINER = Container("npz", recognises, alone(read))


@dataclass(frozen=True)
class _Other:
    """An array of other things than numbers.

    Attributes:
        kind: What it is, in words.
        is_pickled: Whether its values are a pickle.
        start: Where they begin in its record, inflated.
    """

    kind: str
    is_pickled: bool
    start: int


def _array(file: FileBytes, name: str, record: Record) -> StridedTensor | _Other:
    """The tensor of one record, or what it is when it holds no numbers."""
    head = _head(file, record)
    if not head.startswith(_MAGIC) or len(head) < _PREAMBLE or head[6] not in (1, 2, 3):
        raise _malformed(f"'{printable(name)}' does not begin as an array of numpy's does")
    width = 2 if head[6] == 1 else 4
    start = 8 + width
    end = start + int.from_bytes(head[8:start], "little")
    if end - start > _MOST_HEADER:
        raise CheckpointError(
            f"array '{printable(name)}' has a header of {end - start:,} bytes, over the limit of {_MOST_HEADER:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    header = _HEADER.fullmatch(head[start:end].decode("latin-1"))
    if header is None or end > len(head):
        raise _malformed(f"array '{printable(name)}' has a header that numpy does not write")
    order, kind, size, _, records, fortran, dimensions = header.groups()
    if records is not None or kind in _KINDS:
        return _Other(_KINDS[kind or "V"], kind == "O" or bool(records and _OBJECTS.search(records)), end)
    dtype = _DTYPES.get(f"{kind}{size}")
    if dtype is None:
        return _Other(f"an array of numbers that torch has no type for, {printable(f'{kind}{size}')}", False, end)
    shape = tuple(int(number) for number in re.findall(r"\d+", dimensions))
    if len(shape) > MOST_DIMENSIONS or not all(map(is_natural, shape)):
        raise _malformed(
            f"array '{printable(name)}' has more than {MOST_DIMENSIONS} dimensions, or sizes of 2^63 and more"
        )
    nbytes = math.prod(shape) * ITEM_SIZES[dtype]
    held = (record.size if record.inflated is None else record.inflated) - end
    if held != nbytes:
        raise _malformed(
            f"array '{printable(name)}' has {held:,} bytes where its shape {list(shape)} of {dtype} takes {nbytes:,}"
        )
    check_expansion(f"array '{printable(name)}'", nbytes, record.size, 64 << 20)
    deflated = record.inflated is not None
    stride = tuple(reversed(row_major(shape[::-1]))) if fortran == "True" else row_major(shape)
    return StridedTensor(
        name,
        dtype,
        shape,
        stride,
        end if deflated else record.start + end,
        (record.start, record.end),
        swapped=order == ">" and ITEM_SIZES[dtype] > 1,
        deflated=deflated,
    )


def _head(file: FileBytes, record: Record) -> bytes:
    """Enough of an array's beginning to hold any header."""
    count = _PREAMBLE + _MOST_HEADER
    if record.inflated is None:
        return file[record.start : min(record.end, record.start + count)]
    return inflated_head(file, record.start, record.end, count)


def _pickle(file: FileBytes, record: Record, start: int, most: int) -> bytes:
    """The values of an array of objects."""
    size = record.size if record.inflated is None else record.inflated
    if size - start > most:
        raise CheckpointError(
            f"the arrays of Python objects have more than {MOST_PICKLE_BYTES:,} bytes in all; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    if record.inflated is None:
        return file[record.start + start : record.end]
    return inflated_head(file, record.start, record.end, size)[start:]


def _no_persistent_id(identifier: Any) -> NoReturn:  # noqa: ARG001
    raise _malformed("an array of Python objects has a persistent id, which numpy never writes")


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get the file again, or write it anew with numpy.savez.", rule="F002")

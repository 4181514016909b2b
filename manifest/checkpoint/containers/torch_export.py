"""torch.export's `.pt2`: a program as JSON, with its weights as raw records or, before torch 2.8, as an inner archive.

Parameters and buffers are read; the program, its constants and its sample inputs are left alone. Compiled libraries in
it are noted and never loaded. The forms are those of `torch/export/pt2_archive` and of `torch/export/__init__.py`.
"""

from __future__ import annotations

from typing import Any

from manifest.checkpoint.containers import torch_zip
from manifest.checkpoint.containers.torch_archive import Archive, malformed, read_archive, storage_ranges
from manifest.checkpoint.containers.zip_records import read_records
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate, alone
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.pickles.torch_objects import PickledStorage, PickledTensor, is_natural
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.state_dicts import find_states
from manifest.checkpoint.storage_layout import candidates, check_tensors, strided
from manifest.checkpoint.strict_json import read_object
from manifest.checkpoint.tensors import MOST_DIMENSIONS, MOST_TENSORS, StoredTensor
from manifest.errors import CheckpointError
from manifest.escaping import printable

_FORMAT = "archive_format"
_WEIGHTS = "data/weights/"
_CONFIG = "_weights_config.json"
_OLD_PROGRAM = "serialized_exported_program.json"
_OLD_WEIGHTS = ("serialized_state_dict.pt", "serialized_state_dict.json")
_LIBRARIES = (".so", ".dll", ".dylib", ".cubin", ".py", ".cpp")

# torch/_export/serde/schema.py
_SCALAR_TYPES = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    9: "complex32",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz",
    33: "float8_e8m0fnu",
    34: "uint32",
    35: "uint64",
}
_STRIDED = 7


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is an archive with an exported program in it."""
    return _FORMAT in sniffed.inside or _OLD_PROGRAM in sniffed.names


def read(file: FileBytes) -> Contents:
    """Parameters and buffers of an exported program.

    Raises:
        CheckpointError: `F002` when malformed, `F003` when over a limit, `F001` when it holds no weights, `F004` when
            they are in a form that cannot be listed.
    """
    records = read_records(file, lambda _: True)
    if _OLD_PROGRAM in records:
        return _read_old(file)
    archive = read_archive(file, lambda name: not name.endswith(".json"), lambda name: name.endswith(".py"))
    models = [name for name in archive.records if name.startswith(_WEIGHTS) and name.endswith(_CONFIG)]
    found = [_weights(archive, name, several=len(models) > 1) for name in models]
    if not any(candidate.tensors for candidate in found):
        raise CheckpointError(
            "it is an exported program whose weights are not in it as records; "
            "export it again with a released torch, or pass the checkpoint it was made from.",
            rule="F004",
        )
    code = tuple(name for name in archive.records if name.endswith(_LIBRARIES))
    found.sort(key=lambda candidate: -len(candidate.tensors))
    return Contents(tuple(found), code=code, records=tuple(records.values()))


CONTAINER = Container("torch-export", recognises, alone(read))


def _weights(archive: Archive, config: str, *, several: bool) -> StateDictCandidate:
    """The weights that one configuration lists."""
    model = config.removeprefix(_WEIGHTS).removesuffix(_CONFIG)
    what = f"the configuration of weights '{printable(model)}'"
    listed = read_object(archive.small(config), what, malformed).get("config")
    if not isinstance(listed, dict) or len(listed) > MOST_TENSORS:
        raise malformed(f"{what} has no object of at most {MOST_TENSORS:,} tensors")
    tensors: dict[str, PickledTensor] = {}
    unlisted: dict[str, str] = {}
    for name, entry in listed.items():
        tensor = _tensor(archive, name, entry)
        if isinstance(tensor, PickledTensor):
            tensors[name] = tensor
        else:
            unlisted[name] = tensor
    check_tensors(tensors.values(), len(archive.file))
    ranges = storage_ranges(
        (tensor.storage for tensor in tensors.values()), archive.records, lambda key: _WEIGHTS + key
    )
    placed: dict[str, StoredTensor] = {name: strided(name, tensor, ranges) for name, tensor in tensors.items()}
    prefix, stripped = strip_prefixes(placed)
    return StateDictCandidate(stripped, (model,) if several else (), prefix, unlisted=unlisted)


def _tensor(archive: Archive, name: str, entry: Any) -> PickledTensor | str:
    """One line of a configuration, or why its values cannot be listed."""
    record = entry.get("path_name") if isinstance(entry, dict) else None
    meta = entry.get("tensor_meta") if isinstance(entry, dict) else None
    if not isinstance(record, str) or _WEIGHTS + record not in archive.records:
        raise malformed(f"weight '{printable(name)}' is in no record of the archive")
    if entry.get("use_pickle"):
        return "kept as a pickle"
    if not isinstance(meta, dict):
        raise malformed(f"weight '{printable(name)}' is not described")
    dtype, layout = meta.get("dtype"), meta.get("layout")
    if not is_natural(dtype) or dtype not in _SCALAR_TYPES or layout != _STRIDED:
        return "of an element type or layout that is not known"
    shape, stride = (_numbers(name, meta.get(field)) for field in ("sizes", "strides"))
    (offset,) = _numbers(name, [meta.get("storage_offset", {"as_int": 0})])
    if len(shape) != len(stride):
        raise malformed(f"weight '{printable(name)}' has {len(shape)} dimensions and {len(stride)} strides")
    size = archive.records[_WEIGHTS + record].size
    return PickledTensor(PickledStorage(record, None, size, 1), _SCALAR_TYPES[dtype], offset, shape, stride)


def _numbers(name: str, values: Any) -> tuple[int, ...]:
    """Sizes as the schema writes them, `{"as_int": 3}` each."""
    entries = values if isinstance(values, list) and len(values) <= MOST_DIMENSIONS else [None]
    numbers = [value.get("as_int") if isinstance(value, dict) else None for value in entries]
    natural = tuple(number for number in numbers if is_natural(number))
    if len(natural) != len(entries):
        raise malformed(f"weight '{printable(name)}' has sizes, strides or an offset that are no natural numbers")
    return natural


def _read_old(file: FileBytes) -> Contents:
    """The form before torch 2.8, whose weights are a whole file of `torch.save` in one record."""
    records = read_records(file)
    name = next((name for name in _OLD_WEIGHTS if name in records), None)
    if name is None:
        raise malformed("the archive of an exported program has no weights")
    start, end = records[name].start, records[name].end
    saved = torch_zip.read_saved(file.part(start, end))
    ranges = {key: (begin + start, finish + start) for key, (begin, finish) in saved.ranges.items()}
    found = candidates(find_states(saved.root), ranges, swapped=saved.swapped)
    return Contents(
        found, saved.interpreted.globals, saved.interpreted.refused_opcodes, records=tuple(records.values())
    )

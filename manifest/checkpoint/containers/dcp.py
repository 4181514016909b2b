"""The directory that `torch.distributed.checkpoint` writes: `.metadata`, a pickle, and `*.distcp` files of chunks.

The metadata says of each tensor its type, its shape, and for every chunk of it where in the whole it begins and in
which file, at which byte, an archive of `torch.save` with one tensor holds its values. torch itself reads the metadata
with plain `pickle.load`; here the inert machine does. The classes are those of
`torch/distributed/checkpoint/metadata.py` and `filesystem.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, NoReturn

from manifest.checkpoint.containers import torch_zip
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate
from manifest.checkpoint.files import Files
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.pickles.pickle_vm import MOST_PICKLE_BYTES, interpret
from manifest.checkpoint.pickles.stand_ins import Global, OddKey, Opaque, over_limit
from manifest.checkpoint.pickles.torch_objects import PickledStorage, PickledTensor, TorchObjects, is_natural
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.state_dicts import find_states
from manifest.checkpoint.storage_layout import TOTAL_FREE, check_expansion, strided
from manifest.checkpoint.tensors import (
    ITEM_SIZES,
    MOST_DIMENSIONS,
    MOST_TENSORS,
    ChunkedTensor,
    StoredTensor,
    StridedTensor,
)
from manifest.errors import CheckpointError
from manifest.escaping import printable, writable

_METADATA = "torch.distributed.checkpoint.metadata"
_MOST_CHUNKS = 4_096  # of one tensor; more processes than that have never saved together
_MOST_CHUNKS_IN_ALL = 1_000_000
_MOST_CORNERS = 4_000_000
_LONGEST_PATH = 100
_EVERYWHERE = ""  # what stands for where a chunk begins when nothing is said of it


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a chunk is stored: a file beside the metadata, and a range of bytes in it."""

    file: str
    offset: int
    length: int


@dataclass
class _Tensor:
    """What the metadata says of one tensor; chunks are `(offsets, sizes)`."""

    dtype: str
    shape: tuple[int, ...]
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is a pickle that begins with the class of the metadata."""
    head = sniffed.file[:128]
    return head.startswith(b"\x80") and _METADATA.encode() in head and b"Metadata" in head


def read(files: Files) -> Contents:
    """Tensors of a distributed checkpoint.

    Only the chunks of tensors that are weights are opened: those of optimizers are not looked at.

    Raises:
        CheckpointError: `F002` when metadata and files contradict each other, `F003` when over a limit, `F004` for a
            form that is not known, `F007` when it names files elsewhere, `F008` when a file is missing.
    """
    pickle = files[0].read()[: MOST_PICKLE_BYTES + 1]
    objects = TorchObjects()
    interpreted = interpret(pickle, objects.constructors, _no_persistent_id)
    if interpreted.end != len(pickle):
        raise _malformed("the metadata goes on after the pickle in it")
    metadata = _attributes(interpreted.root, f"{_METADATA}.Metadata")
    described = _dictionary(metadata, "state_dict_metadata")
    places = _places(_dictionary(metadata, "storage_data"))
    tensors = _tensors(described)
    reader = _ChunkReader(files, places)
    found = []
    for state in find_states(_object(tensors, described, metadata.get("planner_data"))):
        names = {name: leaf.storage.key for name, leaf in state.tensors.items() if isinstance(leaf, PickledTensor)}
        whole = {name: reader.whole(name, full, tensors[full]) for name, full in names.items()}
        prefix, stripped = strip_prefixes(whole)
        found.append(StateDictCandidate(stripped, state.path, prefix, state.average, {}, state.extras))
    total = sum(tensor.nbytes for candidate in found for tensor in candidate.tensors.values())
    check_expansion("all tensors", total, files.size, TOTAL_FREE)
    globals_ = dict.fromkeys((*interpreted.globals, *reader.globals))
    refused = dict.fromkeys((*interpreted.refused_opcodes, *reader.refused_opcodes))
    return Contents(tuple(found), tuple(globals_), tuple(refused))


CONTAINER = Container("dcp", recognises, read)


class _ChunkReader:
    """Opens the files of chunks as they are asked for, and keeps what their pickles name."""

    def __init__(self, files: Files, places: dict[tuple[str, str], _Place]) -> None:
        self.files = files
        self.places = places
        self.globals: dict[str, None] = {}
        self.refused_opcodes: dict[str, None] = {}
        self._corners = _MOST_CORNERS
        self._read: dict[_Place, StridedTensor] = {}

    def whole(self, name: str, full_name: str, tensor: _Tensor) -> StoredTensor:
        """A tensor, by its chunks."""
        chunks = dict.fromkeys(tensor.chunks)
        self._corners -= _check_tiling(full_name, tensor, list(chunks), self._corners)
        placed = tuple((offsets, self._chunk(full_name, offsets, sizes, tensor.dtype)) for offsets, sizes in chunks)
        if len(placed) == 1 and placed[0][1].shape == tensor.shape:
            return replace(placed[0][1], name=name)
        return ChunkedTensor(name, tensor.dtype, tensor.shape, placed)

    def _chunk(self, name: str, offsets: tuple[int, ...], sizes: tuple[int, ...], dtype: str) -> StridedTensor:
        place = self.places.get((name, str(offsets)))
        if place is None and not any(offsets):
            place = self.places.get((name, _EVERYWHERE))
        if place is None:
            raise _malformed(f"the metadata does not say where a chunk of '{printable(name)}' is stored")
        file = self.files.beside(place.file)
        size = len(self.files[file].mapping)
        if place.offset + place.length > size:
            raise _malformed(
                f"a chunk of '{printable(name)}' reaches to byte {place.offset + place.length:,} of "
                f"'{printable(place.file)}', which has {size:,}"
            )
        if place not in self._read:
            self._read[place] = self._saved(place, name, file)
        chunk = self._read[place]
        if (chunk.shape, chunk.dtype) != (sizes, dtype):
            raise _malformed(
                f"a chunk of '{printable(name)}' is {chunk.dtype} of shape {list(chunk.shape)} where the metadata "
                f"says {dtype} of {list(sizes)}"
            )
        return chunk

    def _saved(self, place: _Place, name: str, file: int) -> StridedTensor:
        part = self.files[file].read().part(place.offset, place.offset + place.length)
        try:
            saved = torch_zip.read_saved(part)
        except CheckpointError as error:
            raise CheckpointError(
                f"in the chunk of '{printable(name)}' in '{printable(place.file)}', {error}", rule=error.rule
            ) from None
        self.globals.update(dict.fromkeys(saved.interpreted.globals))
        self.refused_opcodes.update(dict.fromkeys(saved.interpreted.refused_opcodes))
        if not isinstance(saved.root, PickledTensor):
            raise _malformed(f"the chunk of '{printable(name)}' in '{printable(place.file)}' is no tensor")
        ranges = {key: (start + place.offset, end + place.offset) for key, (start, end) in saved.ranges.items()}
        return replace(strided(name, saved.root, ranges, swapped=saved.swapped), file=file)


def _object(tensors: dict[str, _Tensor], described: dict[Any, Any], planned: Any) -> dict[str, Any]:
    """The object that was saved, with stand-ins for its tensors: the metadata keeps each leaf's path in it."""
    root: dict[str, Any] = {}
    paths = planned if isinstance(planned, dict) else {}
    for name in described:
        if not isinstance(name, str):
            raise _malformed("the metadata has an entry whose name is no text")
        keys = _path(name, paths.get(name))
        leaf: Any = None
        if name in tensors:
            # A stand-in whose storage is called what the metadata calls the tensor.
            leaf = PickledTensor(PickledStorage(name, None, 0, 1), tensors[name].dtype, 0, tensors[name].shape, ())
        inner = root
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise _malformed(f"the metadata puts '{printable(str(name))}' inside of a tensor")
        if keys[-1] in inner:
            raise _malformed(f"the metadata puts '{printable(str(name))}' where it has something else already")
        inner[keys[-1]] = leaf
    return root


def _path(name: str, path: Any) -> list[str]:
    """The keys that lead to an entry in the object that was saved."""
    if not isinstance(path, tuple) or not path:
        return [name]
    if len(path) > _LONGEST_PATH:
        raise over_limit(f"the path of '{printable(name)}' in the metadata has more than {_LONGEST_PATH} keys")
    if not all(isinstance(key, str | int) for key in path):
        raise _malformed(f"the path of '{printable(name)}' in the metadata has other keys than texts and numbers")
    return [str(key) for key in path]


def _tensors(described: dict[Any, Any]) -> dict[str, _Tensor]:
    """What the metadata says of tensors, by their names; of other entries it keeps bytes."""
    tensors: dict[str, _Tensor] = {}
    chunks = 0
    for name, entry in described.items():
        if _is_tensor(entry):
            tensors[name] = _tensor(name, entry)
            chunks += len(tensors[name].chunks)
        if len(tensors) > MOST_TENSORS or chunks > _MOST_CHUNKS_IN_ALL:
            raise over_limit(
                f"the metadata lists more than {MOST_TENSORS:,} tensors or {_MOST_CHUNKS_IN_ALL:,} chunks of them"
            )
    return tensors


def _tensor(name: Any, entry: Opaque) -> _Tensor:
    attributes = _attributes(entry, f"{_METADATA}.TensorStorageMetadata")
    properties = attributes.get("properties")
    state = properties.state if isinstance(properties, Opaque) else None
    kind = state[0] if isinstance(state, tuple) and state else state.get("dtype") if isinstance(state, dict) else None
    dtype = kind.name.removeprefix("torch.") if isinstance(kind, Global) else ""
    if not isinstance(name, str) or writable(name) != name:
        raise _malformed("the metadata has a tensor whose name is no text")
    if dtype.startswith(("qint", "quint")):
        raise CheckpointError(
            f"tensor '{printable(name)}' is quantized, which cannot be read from a distributed checkpoint yet; "
            "dequantize it before saving it.",
            rule="F004",
        )
    if dtype not in ITEM_SIZES:
        raise _malformed(f"tensor '{printable(name)}' has the unknown element type '{printable(dtype)}'")
    chunks = attributes.get("chunks")
    if not isinstance(chunks, list) or len(chunks) > _MOST_CHUNKS:
        raise over_limit(f"tensor '{printable(name)}' has no list of at most {_MOST_CHUNKS:,} chunks")
    found = _Tensor(dtype, _shape(attributes.get("size"), name))
    for chunk in chunks:
        part = _attributes(chunk, f"{_METADATA}.ChunkStorageMetadata")
        found.chunks.append((_shape(part.get("offsets"), name), _shape(part.get("sizes"), name)))
    return found


def _check_tiling(name: str, tensor: _Tensor, chunks: list[tuple[tuple[int, ...], tuple[int, ...]]], most: int) -> int:
    """Check that chunks lie within the whole, do not overlap, and leave nothing out.

    Returns:
        How many corners of chunks were looked at for that, of `most` that may be.
    """
    covered = 0
    for offsets, sizes in chunks:
        if len(offsets) != len(tensor.shape) or len(sizes) != len(tensor.shape):
            raise _malformed(f"a chunk of '{printable(name)}' has another number of dimensions than the whole")
        if any(start + size > limit for start, size, limit in zip(offsets, sizes, tensor.shape, strict=True)):
            raise _malformed(f"a chunk of '{printable(name)}' reaches out of the whole")
        covered += _volume(sizes)
    if covered != _volume(tensor.shape):
        raise _malformed(
            f"the chunks of '{printable(name)}' have {covered:,} elements where the whole has {_volume(tensor.shape):,}"
        )
    filled = [chunk for chunk in chunks if _volume(chunk[1])]
    axes = [axis for axis, length in enumerate(tensor.shape) if any(sizes[axis] != length for _, sizes in filled)]
    corners = len(filled) << len(axes)
    if corners > most:
        raise over_limit(f"the chunks of '{printable(name)}' lie beside each other in too many ways")
    if filled and any(_balance(tensor.shape, filled, axes).values()):
        raise _malformed(f"two chunks of '{printable(name)}' overlap")
    return corners


def _balance(
    shape: tuple[int, ...], chunks: list[tuple[tuple[int, ...], tuple[int, ...]]], axes: list[int]
) -> dict[str, int]:
    """Corners of all chunks with alternating signs, less those of the whole.

    These are where the mixed derivative of how often each element is covered is not zero; so all of them are zero
    exactly if each element is covered once. Corners are told by their text: of tuples of numbers, a file can make all
    hashes the same.
    """
    balance: dict[str, int] = {}
    whole = ((0,) * len(shape), shape)
    for weight, (offsets, sizes) in ((-1, whole), *((1, chunk) for chunk in chunks)):
        for ends in product((0, 1), repeat=len(axes)):
            corner = str([offsets[axis] + end * sizes[axis] for axis, end in zip(axes, ends, strict=True)])
            balance[corner] = balance.get(corner, 0) + (-weight if sum(ends) % 2 else weight)
    return balance


def _volume(sizes: tuple[int, ...]) -> int:
    return math.prod(sizes)


def _places(storage_data: dict[Any, Any]) -> dict[tuple[str, str], _Place]:
    """Where each chunk is stored, by the tensor's name and where in the whole the chunk begins.

    The latter as text: of tuples of numbers, a file can make all hashes the same.
    """
    places: dict[tuple[str, str], _Place] = {}
    for key, info in storage_data.items():
        index = _attributes(key.value if isinstance(key, OddKey) else None, f"{_METADATA}.MetadataIndex")
        stored = _attributes(info, "torch.distributed.checkpoint.filesystem._StorageInfo")
        name, offset = index.get("fqn"), index.get("offset")
        file, start, length = stored.get("relative_path"), stored.get("offset"), stored.get("length")
        if not (isinstance(name, str) and isinstance(file, str) and is_natural(start) and is_natural(length)):
            raise _malformed("the metadata has a chunk without a name, a file or a range of bytes")
        if stored.get("transform_descriptors"):
            raise CheckpointError(
                f"'{printable(name)}' is stored by an extension, which cannot be read yet; save it without one.",
                rule="F004",
            )
        places[name, _EVERYWHERE if offset is None else str(_shape(offset, name))] = _Place(file, start, length)
    return places


def _is_tensor(entry: Any) -> bool:
    return isinstance(entry, Opaque) and entry.name == f"{_METADATA}.TensorStorageMetadata"


def _attributes(value: Any, name: str) -> dict[str, Any]:
    """The attributes of an object of a class."""
    if not isinstance(value, Opaque) or value.name != name or not isinstance(value.state, dict):
        raise _malformed(f"the metadata has something else where a {name.rpartition('.')[2]} was expected")
    return value.state


def _dictionary(attributes: dict[str, Any], name: str) -> dict[Any, Any]:
    value = attributes.get(name)
    if not isinstance(value, dict):
        raise _malformed(f"the metadata has no dictionary '{name}'")
    return value


def _shape(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > MOST_DIMENSIONS or not all(map(is_natural, value)):
        raise _malformed(f"the metadata has a shape or offset of '{printable(name)}' that is none")
    return tuple(value)


def _no_persistent_id(identifier: Any) -> NoReturn:  # noqa: ARG001
    raise _malformed("the metadata has a persistent id, which no writer of it puts there")


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get all files of the checkpoint again.", rule="F002")

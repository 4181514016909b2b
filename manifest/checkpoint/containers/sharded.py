"""A checkpoint in several files with an index: a JSON object whose `weight_map` says which file holds which name.

The files are safetensors or of `torch.save`, all of one kind. A name counts where the index puts it: that it is missing
there, that a file holds one that the index does not know, and that two files hold it are refused. The form is that of
Hugging Face's `save_pretrained`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from manifest.checkpoint.containers import safetensors_file, torch_legacy, torch_zip
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.files import Files
from manifest.checkpoint.names import strip_prefixes
from manifest.checkpoint.sniffing import Sniffed
from manifest.checkpoint.storage_layout import TOTAL_FREE, check_expansion
from manifest.checkpoint.strict_json import read_object
from manifest.checkpoint.tensors import MOST_TENSORS, CompositeTensor, StoredTensor, StridedTensor
from manifest.errors import CheckpointError
from manifest.escaping import printable

_SHARDS: tuple[tuple[Container, Callable[[FileBytes], Contents]], ...] = (
    (safetensors_file.CONTAINER, safetensors_file.read),
    (torch_zip.CONTAINER, torch_zip.read),
    (torch_legacy.CONTAINER, torch_legacy.read),
)
LARGEST_INDEX = 256 << 20
"""Bytes of an index."""
_HEAD = 4096


def recognises(sniffed: Sniffed) -> bool:
    """Whether the file is a JSON object with the words of an index."""
    head = sniffed.file[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"{") and (b'"weight_map"' in head or b'"total_size"' in head)


def read(files: Files) -> Contents:
    """Tensors of all shards.

    Raises:
        CheckpointError: `F002` when index and shards contradict each other, `F007` when the index leads elsewhere,
            `F008` when a shard is missing, and whatever is wrong with a shard.
    """
    shards = _weight_map(files[0].read())
    stored: dict[str, StoredTensor] = {}
    parts: list[Contents] = []
    kinds: set[str] = set()
    for shard in dict.fromkeys(shards.values()):
        file = files.beside(shard)
        kind, contents = _read_shard(files, file)
        kinds.add(kind)
        parts.append(contents)
        for tensor in contents.candidates[0].tensors.values():
            if shards.get(tensor.name) != shard:
                raise _malformed(f"'{printable(shard)}' holds '{printable(tensor.name)}', which the index does not say")
            stored[tensor.name] = located(tensor, file)
    if len(kinds) > 1:
        raise _malformed(f"its files are of different containers, {' and '.join(sorted(kinds))}")
    if missing := [name for name in shards if name not in stored]:
        raise _malformed(f"'{printable(missing[0])}' is not in '{printable(shards[missing[0]])}', as the index says")
    check_expansion("all tensors", sum(tensor.nbytes for tensor in stored.values()), files.size, TOTAL_FREE)
    prefix, tensors = strip_prefixes(stored)
    return Contents(
        (StateDictCandidate(tensors, prefix=prefix, extras=_extras(parts)),),
        globals=tuple(dict.fromkeys(name for part in parts for name in part.globals)),
        refused_opcodes=tuple(dict.fromkeys(name for part in parts for name in part.refused_opcodes)),
        metadata={key: text for part in parts for key, text in part.metadata.items()},
        container=kinds.pop(),
    )


CONTAINER = Container("sharded", recognises, read)


def located(tensor: StoredTensor, file: int) -> StoredTensor:
    """A tensor of a file that was read by itself, as one of the checkpoint's files."""
    if isinstance(tensor, CompositeTensor):
        return replace(tensor, parts={role: replace(part, file=file) for role, part in tensor.parts.items()})
    return replace(tensor, file=file) if isinstance(tensor, StridedTensor) else tensor


def _weight_map(file: FileBytes) -> dict[str, str]:
    """Tensor name → file name."""
    if len(file) > LARGEST_INDEX:
        raise CheckpointError(
            f"the index has {len(file):,} bytes, over the limit of {LARGEST_INDEX:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    shards = _parsed(file[:])
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise _malformed("'weight_map' in the index is no object of file names")
    if not shards:
        raise CheckpointError("the index lists no tensor, so it holds no weights; pass one that does.", rule="F001")
    if len(shards) > MOST_TENSORS:
        raise CheckpointError(
            f"the index lists {len(shards):,} tensors, more than the limit of {MOST_TENSORS:,}; "
            "do not load this file unless you know who made it.",
            rule="F003",
        )
    return shards


def _parsed(index: bytes) -> object:
    return read_object(index.removeprefix(b"\xef\xbb\xbf"), "the index", _malformed).get("weight_map")


def shards_in(index: bytes) -> list[str]:
    """Names of the files that an index names beside itself; of what is no index, none."""
    try:
        shards = _parsed(index)
    except CheckpointError:
        return []
    names = {name for name in shards.values() if isinstance(name, str)} if isinstance(shards, dict) else set()
    return sorted(name for name in names if "/" not in name)


def _read_shard(files: Files, file: int) -> tuple[str, Contents]:
    name, content = files[file].name, files[file].read()
    sniffed = Sniffed(content)
    found = next(((container.name, reader) for container, reader in _SHARDS if container.recognises(sniffed)), None)
    if found is None:
        raise _malformed(f"'{printable(name)}', which the index names, is neither safetensors nor of torch.save")
    kind, reader = found
    try:
        contents = reader(content)
    except CheckpointError as error:
        raise CheckpointError(f"in '{printable(name)}', {error}", rule=error.rule) from None
    if unlisted := contents.candidates[0].unlisted:
        raise _malformed(f"'{printable(name)}' holds '{printable(next(iter(unlisted)))}', which cannot be listed")
    return kind, contents


def _extras(parts: Iterable[Contents]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(extra for part in parts for extra in part.candidates[0].extras))


def _malformed(found: str) -> CheckpointError:
    return CheckpointError(f"{found}; get all files of the checkpoint again.", rule="F002")

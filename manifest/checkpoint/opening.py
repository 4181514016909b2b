"""Opening a checkpoint: one look-up by name, one open file, one mapping of it; and so for each file that it names.

Directory, pickle, header and tensors are all read from the same open file, so what was checked is what is digested and
what is loaded. Which containers there are is the table `_CONTAINERS`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from manifest import progress
from manifest.checkpoint import directories, gathering, sniffing
from manifest.checkpoint.containers.zip_records import wrong_checksum
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate
from manifest.checkpoint.file_bytes import FileBytes
from manifest.checkpoint.files import Files
from manifest.checkpoint.hashes import Hashes
from manifest.checkpoint.tensors import CompositeTensor, StoredTensor, StridedTensor, extents
from manifest.checkpoint.views import View, seen
from manifest.digests import READ_BLOCK, composite_digest, streamed_tensor_digest
from manifest.errors import CheckpointError, InputError
from manifest.escaping import no_such_file, printable, printable_list

if TYPE_CHECKING:
    from manifest.remote import Mirror

_log = logging.getLogger(__name__)

_CONTAINERS = (
    "safetensors_file",
    "npz",
    "torch_package",
    "torch_export",
    "torchscript",
    "torch_zip",
    "torch_legacy",
    "sharded",
    "dcp",
)
"""Their modules, in the order in which files are shown to them."""

_BLOCK = 4 << 20  # bytes of a block that numbers are computed of
_WORTH_REMEMBERING = 4_096  # bytes; below, digesting again costs less than remembering the digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One set of weights of an open checkpoint; a context manager.

    A checkpoint may hold several sets, such as those of a model and their average. Opening it gives the one that the
    rule of `state_dicts.order` puts first, and `select` another, over the same open files. Nothing changes the object
    that it is called on; closing one of them closes the files of all.

    Attributes:
        path: As it was given: a file, or a directory of files.
        container: The byte format: `safetensors`, `torch-zip`, `torch-legacy`, ….
        files: Its open files; of a directory, the one that leads to the others first.
        contents: All that the files hold, with every set of weights.
        view: Which set this is, and what its tensors are called.
        tensors: The weights by name without wrapper prefix, in stored order.
        prefix: The wrapper prefix that every stored name had, for example `module.`; empty when none.
        extras: What else the object holds: `epoch`, `optimizer`, …; keys that are no strings by their `repr`.
        unlisted: Tensors among the weights whose values cannot be listed: name → what they are, in words.
    """

    path: Path
    container: str
    files: Files
    contents: Contents
    view: View
    tensors: Mapping[str, StoredTensor]
    prefix: str
    extras: tuple[str, ...]
    unlisted: Mapping[str, str]
    _hashes: Hashes
    _given: Mapping[int, str] = field(default_factory=dict)

    @property
    def state_path(self) -> tuple[str, ...]:
        """The keys that lead to the weights inside the object, for example `("state_dict",)`."""
        return self.view.path

    @property
    def candidates(self) -> tuple[StateDictCandidate, ...]:
        """Every set of weights in the files."""
        return self.contents.candidates

    @property
    def globals(self) -> tuple[str, ...]:
        """`module.name` of every global that a real unpickler would import, as the file spells it."""
        return self.contents.globals

    def select(self, which: str | Sequence[str] | View) -> Checkpoint:
        """Another set of weights of the same open files.

        Args:
            which: The keys that lead to it, as they are or joined with dots; names and the part are then those of this
                view. After the keys may come what the names of a part begin with: of `model.visual.proj` beside
                `teacher.visual.proj` under `state_dict`, `state_dict.model` is a part. Or a view.

        Raises:
            InputError: There is none under these keys.
        """
        path = which.path if isinstance(which, View) else which
        for candidate in self.candidates:
            if path == (".".join(candidate.path) if isinstance(path, str) else candidate.path):
                view = which if isinstance(which, View) else replace(self.view, path=candidate.path)
                return replace(self, **seen(candidate, view))
        if isinstance(path, str) and (part := self._part_under(path)) is not None:
            return part
        shown = path if isinstance(path, str) else ".".join(path)
        known = printable_list(".".join(candidate.path) for candidate in self.candidates)
        raise InputError(
            f"{printable(self.path.name)} has no weights under '{printable(shown)}', only under {known}; "
            "name one of these."
        )

    def parts(self) -> list[Checkpoint]:
        """The parts of this set of weights whose names begin alike, as those of several models in one state dict."""
        heads = dict.fromkeys(f"{name.partition('.')[0]}." for name in self.tensors if "." in name)
        views = (replace(self.view, within=f"{self.prefix}{head}") for head in heads)
        return [self.select(view) for view in views]

    def _part_under(self, path: str) -> Checkpoint | None:
        """A part of a set of weights by the keys that lead to the set, and what the names of the part begin with."""
        for candidate in self.candidates:
            keys = ".".join((*candidate.path, ""))
            within = f"{candidate.prefix}{path.removeprefix(keys)}."
            if path.startswith(keys) and any(
                f"{candidate.prefix}{name}".startswith(within) for name in candidate.tensors
            ):
                return self.select(replace(self.view, path=candidate.path, within=within))
        return None

    def with_aliases(self, tied: Mapping[str, str]) -> Checkpoint:
        """The same weights, each also by its other names, under which some writers do not store it a second time.

        Args:
            tied: Of a model's tied weights: name → the name of the same weight that comes first.
        """
        names: dict[str, list[str]] = {}
        for name, first in tied.items():
            names.setdefault(first, [first]).append(name)
        tensors = dict(self.tensors)
        for same in names.values():
            stored = next((tensors[name] for name in same if name in tensors), None)
            if stored is not None:
                tensors |= {name: replace(stored, name=name) for name in same if name not in tensors}
        return replace(self, tensors=tensors)

    def with_digests(self, digests: Mapping[str, str]) -> Checkpoint:
        """The same weights, some with the digests that other processes have computed from the same files, by name."""
        return replace(self, _given={id(self.tensors[name]): digest for name, digest in digests.items()})

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.files.size

    @property
    def mirror(self) -> Mirror | None:
        """Where its files appear, when they are at addresses; None of files of this machine."""
        return self.files.mirror

    @property
    def mapping(self) -> mmap:
        """The first file, whole; writing to it changes memory only."""
        return self.files[0].mapping

    def expect_samples(self) -> None:
        """Tell the system that only a little will be read, here and there: it need read no pages ahead."""
        for file in self.files:
            file.expect_samples()

    def hash_ahead(self) -> None:
        """Begin to hash the files on other threads; `blake3` waits for them."""
        self._hashes.begin()

    def blake3(self, file: int = 0) -> str:
        """BLAKE3 of a whole file, the first unless another is asked for, as 64 hexadecimal digits.

        Raises:
            InputError: It was cut while it was read.
        """
        return self._hashes.blake3(file)

    def values(self, tensor: StoredTensor, only: Iterable[tuple[int, int]] | None = None) -> memoryview:
        """A tensor's values: contiguous, row-major, little-endian bytes.

        They are the mapping itself where they lie in the file that way, and a copy of `tensor.nbytes` otherwise.

        Args:
            tensor: One of the tensors.
            only: The ranges of these bytes that will be looked at, of a tensor that lies in the file that way; all
                when None.

        Raises:
            CheckpointError: It is sparse or quantized and has no plain values.
            InputError: The file was cut, or it is at an address and cannot be had.
        """
        self._require(tensor, only)
        try:
            return gathering.values(self._hashes.mappings, tensor)
        except CheckpointError as error:
            raise _of_file(self.path, error) from None

    def blocks(self, tensor: StoredTensor) -> Iterator[memoryview]:
        """The same values in consecutive blocks of bounded size, each valid until the next is asked for.

        Raises:
            CheckpointError: As of `values`.
            InputError: The file was cut while it was read.
        """
        if isinstance(tensor, StridedTensor) and tensor.plain and self._can_read(tensor.file):
            yield from self._read(tensor, _BLOCK)
            return
        self._require(tensor)
        try:
            for block in gathering.blocks(self._hashes.mappings, tensor):
                yield block
                progress.read(block.nbytes)
        except CheckpointError as error:
            raise _of_file(self.path, error) from None

    def digest(self, tensor: StoredTensor) -> str:
        """The tensor digest of its values, the same in every container; in bounded memory."""
        if (given := self._given.get(id(tensor))) is not None:
            return given
        if isinstance(tensor, CompositeTensor):
            parts = [(role, self.digest(part)) for role, part in tensor.parts.items()]
            return composite_digest(tensor.layout, tensor.dtype, tensor.shape, tensor.facts, parts)
        if not isinstance(tensor, StridedTensor) or tensor.nbytes < _WORTH_REMEMBERING:
            return self._digest(tensor)
        # A few bytes of a file can give one large tensor a million names.
        known = self._hashes.of_tensors
        if tensor.place not in known:
            known[tensor.place] = self._digest(tensor)
        return known[tensor.place]

    def _digest(self, tensor: StoredTensor) -> str:
        if isinstance(tensor, StridedTensor) and tensor.plain and self._can_read(tensor.file):
            return streamed_tensor_digest(tensor.dtype, tensor.shape, self._read(tensor, READ_BLOCK), tensor.nbytes)
        return streamed_tensor_digest(tensor.dtype, tensor.shape, self.blocks(tensor))

    def _can_read(self, file: int) -> bool:
        """Whether a file can be read by its descriptor or its address, and not only where it is mapped."""
        found = self.files[file]
        return (found.descriptor >= 0 or found.remote is not None) and not self._hashes.closed

    def _read(self, tensor: StridedTensor, most: int) -> Iterator[memoryview]:
        return self.files[tensor.file].blocks(tensor.offset, tensor.nbytes, most)

    def _require(self, tensor: StoredTensor, only: Iterable[tuple[int, int]] | None = None) -> None:
        """See that a tensor's bytes can be touched where they are mapped, or some ranges of them."""
        if self._hashes.closed:
            return
        if self.files.mirror is not None:
            for file, start, end in extents(tensor):
                parts = [(start, end)] if only is None else [(start + first, start + last) for first, last in only]
                self.files[file].need(parts)
        for file in [tensor.file] if isinstance(tensor, StridedTensor) else range(len(self.files)):
            self.files[file].require_uncut()

    def damaged_records(self) -> list[str]:
        """Names of zip records whose values do not have their checksum; a pass over all bytes.

        Opening compares the checksums of descriptions only, and no reader of torch's compares any. A file that was
        written without checksums has none to compare, but for what is compressed, which nobody writes so.
        """
        has_checksums = any(record.crc for record in self.contents.records)
        records = [each for each in self.contents.records if has_checksums or each.inflated is not None]
        file = self.files[0]
        with ThreadPoolExecutor(2) as pool:
            wrong = pool.map(lambda record: wrong_checksum(file, record), records)
            return [record.name for record, is_wrong in zip(records, wrong, strict=True) if is_wrong]

    def aliases(self) -> dict[str, str]:
        """Tied weights: each name whose values are the very bytes of an earlier tensor, with that tensor's name."""
        first: dict[str, str] = {}
        tied: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            if not isinstance(tensor, StridedTensor) or not tensor.numel:
                continue  # an empty tensor shares no value with any other
            original = first.setdefault(tensor.place, name)
            if original != name:
                tied[name] = original
        return tied

    def close(self) -> None:
        """Let go of the mappings; each stays until the last view of it, such as a loaded tensor, is gone."""
        self._hashes.close()
        self.files.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint and list its tensors, running no code out of it.

    Args:
        path: A file, the index of a sharded checkpoint, or a directory with one checkpoint in it.

    Raises:
        InputError: There is no such file, or it is not one that can be opened.
        CheckpointError: It is not a checkpoint (`F001`), malformed (`F002`), over a limit (`F003`), of a container
            that is not supported (`F004`), or names files elsewhere (`F007`) or that are missing (`F008`).
    """
    path = Path(path)
    if directories.is_missing(path):
        raise InputError(no_such_file(str(path)))
    return _opened(path)


def open_address(text: str) -> Checkpoint:
    """The same of a file or an index at an address, of which only what is needed is fetched."""
    from manifest.remote import Address, Mirror

    mirror = Mirror(Address(text))
    try:
        return _opened(mirror.path, mirror)
    except BaseException as error:
        mirror.close()
        if isinstance(error, FileNotFoundError):
            raise InputError(f"There is no file {mirror.address.shown}; check the address.") from None
        raise


def _opened(path: Path, mirror: Mirror | None = None) -> Checkpoint:
    files: Files | None = None
    try:
        files = Files(directories.entry_at_home(path) if directories.is_directory(path) else path, mirror)
        container = _identify(files[0].read())
        contents = container.read(files)
    except CheckpointError as error:
        if files is not None:
            files.close()
        raise _of_file(path, error) from None
    first = contents.candidates[0]
    _log.debug("opened %s: %s, %d files, %d tensors", path, container.name, len(files), len(first.tensors))
    kind = contents.container or container.name
    return Checkpoint(path, kind, files, contents, _hashes=Hashes(files), **seen(first, View(first.path)))


def containers() -> Iterator[Container]:
    """Those that can be read; each is imported when it is asked for."""
    for name in _CONTAINERS:
        container: Container = import_module(f"manifest.checkpoint.containers.{name}").CONTAINER
        yield container


def _identify(file: FileBytes) -> Container:
    sniffed = sniffing.Sniffed(file)
    for container in containers():
        if container.recognises(sniffed):
            return container
    raise sniffing.refusal(sniffed)


def _of_file(path: Path, error: CheckpointError) -> CheckpointError:
    """The error with the name of the checkpoint in front."""
    error.args = (f"{printable(path.name or str(path))}: {error}",)
    return error


def require_undamaged(checkpoint: Checkpoint) -> None:
    """Refuse a file whose values do not have their checksums, before anything vouches for them.

    Raises:
        CheckpointError: `F002`, by the first of the records.
    """
    if damaged := checkpoint.damaged_records():
        found = f"record '{printable(damaged[0])}' does not have its checksum, so its bytes have changed"
        raise _of_file(checkpoint.path, CheckpointError(f"{found}; get the file again.", rule="F002"))

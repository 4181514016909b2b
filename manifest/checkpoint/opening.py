"""Opening a checkpoint: one look-up by name, one open file, one mapping of it; and so for each file that it names.

Directory, pickle, header and tensors are all read from the same private, copy-on-write mapping, so what was checked is
what is digested and what is loaded. Which containers there are is the table `CONTAINERS`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from mmap import mmap
from pathlib import Path
from types import TracebackType

from manifest.checkpoint import directories, gathering, sniffing
from manifest.checkpoint.containers import (
    dcp,
    npz,
    safetensors_file,
    sharded,
    torch_export,
    torch_legacy,
    torch_package,
    torch_zip,
    torchscript,
)
from manifest.checkpoint.containers.zip_records import wrong_checksum
from manifest.checkpoint.contents import Container, Contents, StateDictCandidate
from manifest.checkpoint.files import Files, OpenFile, stays_home
from manifest.checkpoint.state_dicts import first_extras
from manifest.checkpoint.tensors import CompositeTensor, StoredTensor, StridedTensor
from manifest.digests import bytes_digest, composite_digest, descriptor_blake3, read_blocks, streamed_tensor_digest
from manifest.errors import CheckpointError, InputError
from manifest.escaping import printable, printable_list

CONTAINERS: tuple[Container, ...] = (
    npz.CONTAINER,
    torch_package.CONTAINER,
    torch_export.CONTAINER,
    torchscript.CONTAINER,
    torch_zip.CONTAINER,
    torch_legacy.CONTAINER,
    safetensors_file.CONTAINER,
    sharded.CONTAINER,
    dcp.CONTAINER,
)

_WORTH_REMEMBERING = 4_096  # bytes; below, digesting again costs less than remembering the digest


@dataclass(frozen=True)
class View:
    """Which of the weights in a checkpoint are meant, and what they are called.

    Attributes:
        path: The keys that lead to them inside the object.
        within: What their stored names begin with where they are a part of those under the keys: a module in a larger
            one. They are called without it. Empty for all.
        names: Stored name, without that → name, where the writer of the file and the model do not agree.
    """

    path: tuple[str, ...]
    within: str = ""
    names: Mapping[str, str] = field(default_factory=dict)


class Checkpoint:
    """An open checkpoint; a context manager.

    It may hold several sets of weights, such as those of a model and their average. The one that is meant is chosen by
    the rule of `state_dicts.order`, and another by `choose`; the attributes below are those of the chosen one.

    Attributes:
        path: As it was given: a file, or a directory of files.
        container: The byte format: `safetensors`, `torch-zip`, `torch-legacy`, ….
        files: Its open files; of a directory, the one that leads to the others first.
        candidates: Every set of weights in it.
        tensors: The weights by name without wrapper prefix, in stored order.
        state_path: The keys that lead to them inside the object, for example `("state_dict",)`.
        prefix: The wrapper prefix that every stored name had, for example `module.`; empty when none.
        extras: What else the object holds: `epoch`, `optimizer`, …; keys that are no strings by their `repr`.
        unlisted: Tensors among the weights whose values cannot be listed: name → what they are, in words.
        globals: `module.name` of every global that a real unpickler would import, as the file spells it.
        refused_opcodes: Opcodes of its pickle that `torch.load(weights_only=True)` does not accept.
        code: Names of records that are programs, none of which is ever run.
        metadata: The `__metadata__` of safetensors.
        said: Short texts and switches beside the weights of a pickle, by the keys that lead to them: `args.model`.
    """

    def __init__(self, path: Path, container: str, files: Files, contents: Contents) -> None:
        self.path = path
        self.container = container
        self.files = files
        self.candidates = contents.candidates
        self.globals = contents.globals
        self.refused_opcodes = contents.refused_opcodes
        self.code = contents.code
        self.metadata = contents.metadata
        self.said = contents.said
        self._records = contents.records
        self._mappings = [file.mapping for file in files]
        self._hashing: threading.Thread | None = None
        self._blake3: list[str] | None = None
        self._cut: InputError | None = None
        self._closed = False
        self._digests: dict[str, str] = {}
        self._told: dict[int, str] = {}
        self._within = ""
        self._names: dict[str, str] = {}
        self._take(contents.candidates[0])

    def _take(self, chosen: StateDictCandidate) -> None:
        part = _part(chosen, self._within)
        self.tensors = renamed(part.tensors, self._names)
        self.state_path = part.path
        self.prefix = part.prefix
        self.extras = part.extras
        self.unlisted = part.unlisted

    def choose(self, path: str | Sequence[str]) -> None:
        """Mean another of the candidates, by the keys that lead to it, as they are or joined with dots.

        Raises:
            InputError: There is none under these keys.
        """
        wanted = path if isinstance(path, str) else tuple(path)
        paths = [".".join(candidate.path) if isinstance(path, str) else candidate.path for candidate in self.candidates]
        found = self.candidates[paths.index(wanted)] if wanted in paths else None
        if found is None:
            shown = path if isinstance(path, str) else ".".join(path)
            known = printable_list(".".join(candidate.path) for candidate in self.candidates)
            raise InputError(
                f"{printable(self.path.name)} has no weights under '{printable(shown)}', only under {known}; "
                "name one of these."
            )
        self._take(found)

    @property
    def view(self) -> View:
        """Which of its weights are meant, and what they are called."""
        return View(self.state_path, self._within, self._names)

    def show(self, view: View) -> None:
        """Mean what another opening of the same checkpoint does; what is chosen later is shown in the same way.

        Raises:
            InputError: There are no weights under these keys.
        """
        self._within, self._names = view.within, dict(view.names)
        self.choose(view.path)

    def tie(self, tied: Mapping[str, str]) -> None:
        """Know tensors by their other names too, under which some writers do not store them a second time.

        Args:
            tied: Of a model's tied weights: name → the name of the same weight that comes first.
        """
        names: dict[str, list[str]] = {}
        for name, first in tied.items():
            names.setdefault(first, [first]).append(name)
        for same in names.values():
            stored = next((self.tensors[name] for name in same if name in self.tensors), None)
            if stored is not None:
                missing = {name: replace(stored, name=name) for name in same if name not in self.tensors}
                self.tensors = {**self.tensors, **missing}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.files.size

    @property
    def mapping(self) -> mmap:
        """The first file, whole; writing to it changes memory only."""
        return self._mappings[0]

    def hash_ahead(self) -> None:
        """Begin to hash the files on other threads; `blake3` waits for them."""
        self._hashing = threading.Thread(target=self._hash, daemon=True)
        self._hashing.start()

    def blake3(self, file: int = 0) -> str:
        """BLAKE3 of a whole file, the first unless another is asked for, as 64 hexadecimal digits.

        Raises:
            InputError: It was cut while it was read.
        """
        if self._hashing is not None:
            self._hashing.join()
        if self._blake3 is None:
            self._hash()
        if self._cut is not None:
            raise self._cut
        assert self._blake3 is not None
        return self._blake3[file]

    def _hash(self) -> None:
        try:
            self._blake3 = [_file_digest(file) for file in self.files]
        except InputError as error:  # on another thread, nobody would hear of it
            self._cut = error

    def values(self, tensor: StoredTensor) -> memoryview:
        """A tensor's values: contiguous, row-major, little-endian bytes.

        They are the mapping itself where they lie in the file that way, and a copy of `tensor.nbytes` otherwise.

        Raises:
            CheckpointError: It is sparse or quantized and has no plain values.
        """
        try:
            return gathering.values(self._mappings, tensor)
        except CheckpointError as error:
            raise _of_file(self.path, error) from None

    def blocks(self, tensor: StoredTensor) -> Iterator[memoryview]:
        """The same values in consecutive blocks of bounded size, or in one that is the mapping itself."""
        try:
            yield from gathering.blocks(self._mappings, tensor)
        except CheckpointError as error:
            raise _of_file(self.path, error) from None

    def tell(self, digests: Mapping[str, str]) -> None:
        """Take the word of other processes for the digests of tensors, by name, which they read from the same files."""
        self._told = {id(self.tensors[name]): digest for name, digest in digests.items()}

    def digest(self, tensor: StoredTensor) -> str:
        """The tensor digest of its values, the same in every container; in bounded memory."""
        if (told := self._told.get(id(tensor))) is not None:
            return told
        if isinstance(tensor, CompositeTensor):
            parts = [(role, self.digest(part)) for role, part in tensor.parts.items()]
            return composite_digest(tensor.layout, tensor.dtype, tensor.shape, tensor.facts, parts)
        if not isinstance(tensor, StridedTensor) or tensor.nbytes < _WORTH_REMEMBERING:
            return self._digest(tensor)
        # A few bytes of a file can give one large tensor a million names.
        place = tensor.place
        if place not in self._digests:
            self._digests[place] = self._digest(tensor)
        return self._digests[place]

    def _digest(self, tensor: StoredTensor) -> str:
        if isinstance(tensor, StridedTensor) and tensor.plain and tensor.nbytes:
            file = self.files[tensor.file]
            if file.descriptor >= 0 and not self._closed:
                read = read_blocks(file.descriptor, tensor.offset, tensor.nbytes, file.name)
                return streamed_tensor_digest(tensor.dtype, tensor.shape, read, tensor.nbytes)
        return streamed_tensor_digest(tensor.dtype, tensor.shape, self.blocks(tensor))

    def damaged_records(self) -> list[str]:
        """Names of zip records whose values do not have their checksum; a pass over all bytes.

        Opening compares the checksums of descriptions only, and no reader of torch's compares any. A file that was
        written without checksums has none to compare.
        """
        if not any(record.crc for record in self._records):
            return []
        return [record.name for record in self._records if wrong_checksum(self.mapping, record)]

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
        if self._hashing is not None:
            self._hashing.join()
        self._closed = True
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


def _file_digest(file: OpenFile) -> str:
    if file.descriptor < 0:
        return bytes_digest(file.mapping)
    return descriptor_blake3(file.descriptor, len(file.mapping), file.name)


def renamed(tensors: dict[str, StoredTensor], names: Mapping[str, str]) -> dict[str, StoredTensor]:
    """Tensors by other names, each where no tensor has that name already."""
    called = {name: names[name] for name in tensors if name in names and names[name] not in tensors}
    return {called.get(name, name): tensor for name, tensor in tensors.items()} if called else tensors


def _part(candidate: StateDictCandidate, within: str) -> StateDictCandidate:
    """Those tensors whose stored names begin so, the others being extras; all where none does."""
    inner = within[len(candidate.prefix) :] if within.startswith(candidate.prefix) else ""
    tensors = {name.removeprefix(inner): each for name, each in candidate.tensors.items() if name.startswith(inner)}
    if not inner or not tensors:
        return candidate
    unlisted = {name.removeprefix(inner): kind for name, kind in candidate.unlisted.items() if name.startswith(inner)}
    outside = dict.fromkeys(name.partition(".")[0] for name in candidate.tensors if not name.startswith(inner))
    return replace(
        candidate,
        tensors=tensors,
        prefix=within,
        unlisted=unlisted,
        extras=(*candidate.extras, *first_extras(list(outside), candidate.path)),
    )


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
    files: Files | None = None
    try:
        files = Files(_entry(path) if _is_directory(path) else path)
        container = _identify(files[0].mapping)
        contents = container.read(files)
    except CheckpointError as error:
        if files is not None:
            files.close()
        raise _of_file(path, error) from None
    return Checkpoint(path, contents.container or container.name, files, contents)


def _entry(directory: Path) -> Path:
    """The file of a directory that leads to its checkpoint; it must lie there, as all the others must."""
    path = directories.entry(directory)
    if not stays_home(path):
        raise CheckpointError(
            f"its '{printable(path.name)}' is a link that leads out of it; "
            "do not load it unless you know who made it, and pass the file itself if you do.",
            rule="F007",
        )
    return path


def _of_file(path: Path, error: CheckpointError) -> CheckpointError:
    """The error with the name of the checkpoint in front."""
    return CheckpointError(f"{printable(path.name or str(path))}: {error}", rule=error.rule)


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a parent that may not be looked into: opening it says so
        return False


def require_undamaged(checkpoint: Checkpoint) -> None:
    """Refuse a file whose values do not have their checksums, before anything vouches for them.

    Raises:
        CheckpointError: `F002`, by the first of the records.
    """
    if damaged := checkpoint.damaged_records():
        found = f"record '{printable(damaged[0])}' does not have its checksum, so its bytes have changed"
        raise _of_file(checkpoint.path, CheckpointError(f"{found}; get the file again.", rule="F002"))


def _identify(mapping: mmap) -> Container:
    sniffed = sniffing.Sniffed(mapping)
    for container in CONTAINERS:
        if container.recognises(sniffed):
            return container
    raise sniffing.refusal(sniffed)

"""Opening a checkpoint: one look-up by name, one open file, one mapping of it.

Directory, pickle, header and tensors are all read from the same private, copy-on-write mapping, so what was checked is
what is digested and what is loaded. Which containers there are is the table `CONTAINERS`.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from manifest.checkpoint import safetensors_file, sniffing, torch_legacy, torch_zip
from manifest.checkpoint.contents import Container, Contents
from manifest.checkpoint.escaping import printable
from manifest.checkpoint.gathering import gather
from manifest.checkpoint.tensors import StoredTensor
from manifest.digests import bytes_digest, tensor_digest
from manifest.errors import CheckpointError, InputError

CONTAINERS: tuple[Container, ...] = (torch_zip.CONTAINER, torch_legacy.CONTAINER, safetensors_file.CONTAINER)

_Result = TypeVar("_Result")


class Checkpoint:
    """An open checkpoint; a context manager.

    Attributes:
        path: As it was given.
        container: The byte format: `safetensors`, `torch-zip`, `torch-legacy`.
        size: Bytes of the file.
        tensors: The weights by name without wrapper prefix, in stored order.
        state_path: The keys that lead to them inside the object, for example `("state_dict",)`.
        prefix: The wrapper prefix that every stored name had, for example `module.`; empty when none.
        extras: What else the object holds: `epoch`, `optimizer`, …; keys that are no strings by their `repr`.
        unsafe_globals: `module.name` of every global in the pickle outside the allow-list, as the file spells it.
        metadata: The `__metadata__` of safetensors.
        mapping: The whole file; writing to it changes memory only, never the file.
    """

    def __init__(self, path: Path, container: str, mapping: mmap, contents: Contents) -> None:
        self.path = path
        self.container = container
        self.size = len(mapping)
        self.tensors = contents.tensors
        self.state_path = contents.state_path
        self.prefix = contents.prefix
        self.extras = contents.extras
        self.unsafe_globals = contents.unsafe_globals
        self.metadata = contents.metadata
        self.mapping = mapping
        self._hashing: threading.Thread | None = None
        self._blake3: str | None = None

    def hash_ahead(self) -> None:
        """Begin to hash the file on other threads; `blake3` waits for them."""
        self._hashing = threading.Thread(target=self._hash, daemon=True)
        self._hashing.start()

    def blake3(self) -> str:
        """BLAKE3 of the whole file, as 64 hexadecimal digits."""
        if self._hashing is not None:
            self._hashing.join()
        if self._blake3 is None:
            self._hash()
        assert self._blake3 is not None
        return self._blake3

    def _hash(self) -> None:
        self._blake3 = bytes_digest(self.mapping)

    def values(self, tensor: StoredTensor) -> memoryview:
        """A tensor's values: contiguous, row-major, little-endian bytes.

        They are the mapping itself where they lie in the file that way, and a copy of `tensor.nbytes` otherwise.
        """
        return gather(self.mapping, tensor)

    def digest(self, tensor: StoredTensor) -> str:
        """The tensor digest of its values, the same in every container."""
        return tensor_digest(tensor.dtype, tensor.shape, self.values(tensor))

    def aliases(self) -> dict[str, str]:
        """Tied weights: each name whose values are the very bytes of an earlier tensor, with that tensor's name."""
        first: dict[tuple[object, ...], str] = {}
        tied: dict[str, str] = {}
        for name, tensor in self.tensors.items():
            if not tensor.numel:
                continue  # an empty tensor shares no value with any other
            place = (
                tensor.storage,
                tensor.offset,
                tensor.shape,
                tensor.stride,
                tensor.dtype,
                tensor.conjugated,
                tensor.negated,
            )
            original = first.setdefault(place, name)
            if original != name:
                tied[name] = original
        return tied

    def close(self) -> None:
        """Let go of the mapping; it stays until the last view of it, such as a loaded tensor, is gone."""
        with suppress(BufferError):
            self.mapping.close()

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

    Raises:
        InputError: There is no such file, or it is not one that can be opened.
        CheckpointError: It is not a checkpoint (`F001`), malformed (`F002`), over a limit (`F003`), or of a container
            that is not supported (`F004`).
    """
    path = Path(path)
    mapping = _map(path)
    try:
        container = _identify(mapping)
        contents = container.read(mapping)
    except CheckpointError as error:
        with suppress(BufferError):
            mapping.close()
        raise _refused(path, str(error), error.rule) from None
    return Checkpoint(path, container.name, mapping, contents)


def _identify(mapping: mmap) -> Container:
    for container in CONTAINERS:
        if container.recognises(mapping):
            return container
    raise sniffing.refusal(mapping)


def _map(path: Path) -> mmap:
    """A private, copy-on-write mapping of the whole file."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(f"No such file: {printable(str(path), 1000)}") from None
    except IsADirectoryError:
        raise _directory(path) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"Cannot open {printable(str(path), 1000)}: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise _directory(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"Not a regular file: {printable(str(path), 1000)}")
        if not status.st_size:
            raise _refused(path, "the file is empty, so its download or its saving failed; get it again.", "F001")
        return mmap(descriptor, 0, access=ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot map {printable(str(path), 1000)}: {printable(str(error))}") from None
    finally:
        os.close(descriptor)


def _directory(path: Path) -> CheckpointError:
    return _refused(
        path, "it is a directory, and directory checkpoints are not supported yet; pass the file in it.", "F004"
    )


def _refused(path: Path, found: str, rule: str) -> CheckpointError:
    return CheckpointError(f"{printable(path.name or str(path))}: {found}", rule=rule)

"""The open files of one checkpoint: the one that was named, and those that it names.

Each is looked up by name once, opened, and mapped privately, copy-on-write. A file named inside a checkpoint is hostile
input: it must lie beside the one that names it, and be a regular file. Of a file at an address, what is to be read is
fetched first.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import TYPE_CHECKING

from manifest import progress
from manifest.checkpoint.file_bytes import FileBytes
from manifest.digests import READ_BLOCK, blocks_blake3, bytes_digest, descriptor_digests, read_blocks, was_cut
from manifest.errors import CheckpointError, InputError
from manifest.escaping import no_such_file, printable, writable

if TYPE_CHECKING:
    from manifest.remote import Mirror, RemoteFile

if sys.platform == "linux":
    from mmap import MADV_RANDOM, MAP_PRIVATE, PROT_READ, PROT_WRITE

MOST_FILES = 10_000
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
"""What libraries call the files of a checkpoint in parts: the number of the part, and how many there are."""
_MAP_NORESERVE = 0x4000
"""Of Linux, on all of its architectures that torch runs on; older Pythons have no name for it."""
_KEPT = 1 << 20
"""Bytes of a range of a file at an address that is kept once it was read."""
_MOST_DESCRIPTORS = 200  # a process has about a thousand, and each mapping takes one too


@dataclass(frozen=True)
class OpenFile:
    """One file of a checkpoint.

    Attributes:
        name: Its name without directory.
        path: Where it was opened.
        mapping: The whole of it; writing there changes memory only.
        descriptor: The same open file, to read from where it may be cut meanwhile; -1 beyond the first hundreds.
        remote: What fetches its bytes, where it is a file at an address.
    """

    name: str
    path: Path
    mapping: mmap
    descriptor: int = -1
    remote: RemoteFile | None = None

    def read(self) -> FileBytes:
        """Its bytes, to be read and not touched where it is mapped."""
        return FileBytes(
            self.mapping, self.descriptor, self.name, need=None if self.remote is None else self.remote.need
        )

    def blocks(self, start: int, size: int, most: int = READ_BLOCK) -> Iterator[memoryview]:
        """A range of it in consecutive blocks, each valid until the next is asked for.

        Raises:
            InputError: It was cut while it was read, or it cannot be read.
        """
        if self.remote is None or (self.descriptor >= 0 and (size <= _KEPT or self.remote.has(start, start + size))):
            self.need([(start, start + size)])
            yield from read_blocks(self.descriptor, start, size, self.name, most)
            return
        for block in self.remote.blocks(start, size):
            yield block
            progress.read(block.nbytes)

    def blake3(self) -> str:
        """BLAKE3 of it, as 64 hexadecimal digits.

        Raises:
            InputError: As of `blocks`.
        """
        if self.descriptor < 0 and self.remote is None:
            return bytes_digest(self.mapping)
        size = len(self.mapping)
        return blocks_blake3(self.blocks(0, size), size)

    def need(self, ranges: Iterable[tuple[int, int]]) -> None:
        """See that some ranges can be read: those of a file at an address are fetched.

        Raises:
            InputError: They cannot be had.
        """
        if self.remote is not None:
            self.remote.need(ranges)

    def expect_samples(self) -> None:
        """Tell Linux that only a little of it will be read, here and there: it then reads no pages ahead."""
        if sys.platform == "linux":
            self.mapping.madvise(MADV_RANDOM)

    def digests(self) -> tuple[str, str]:
        """BLAKE3 and SHA-256 of it, wherever it was renamed to meanwhile."""
        if self.descriptor < 0:
            return bytes_digest(self.mapping), sha256(self.mapping).hexdigest()
        return descriptor_digests(self.descriptor, len(self.mapping), self.name)

    def require_uncut(self) -> None:
        """Look whether the file is still as long as its mapping, which to touch where it was cut kills the process.

        Raises:
            InputError: It is not.
        """
        size = os.fstat(self.descriptor).st_size if self.descriptor >= 0 else len(self.mapping)
        if size < len(self.mapping):
            raise was_cut(self.name, size)


class Files:
    """The files of a checkpoint, the one that was named first; indexable.

    Args:
        path: The file that leads to all others.
        mirror: Where files appear that are at addresses; None of files of this machine.
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self._directory = path.parent
        self.mirror = mirror
        remote = None if mirror is None else mirror.open(path.name)
        self._open = [OpenFile(path.name, path, *_open(path), remote)]
        self._by_name = {path.name: 0}
        self._descriptors = [self._open[0].descriptor]
        weakref.finalize(self, _close_all, self._descriptors)

    def __getitem__(self, index: int) -> OpenFile:
        return self._open[index]

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenFile]:
        return iter(self._open)

    @property
    def size(self) -> int:
        """Bytes of all files that are open."""
        return sum(len(file.mapping) for file in self._open)

    def fetch(self) -> None:
        """Fetch and keep all bytes of files at addresses, where several passes over them are to come.

        Raises:
            InputError: They cannot be had, or there is no room for them.
        """
        progress.begin("fetching")
        for file in self._open:
            file.need([(0, len(file.mapping))])

    def beside(self, name: str) -> int:
        """Open a file that the first one names, once.

        Returns:
            Its index.

        Raises:
            CheckpointError: `F007` when the name leads elsewhere, `F008` when there is no such file, `F003` when there
                are too many.
        """
        if name in self._by_name:
            return self._by_name[name]
        if len(self._open) >= MOST_FILES:
            raise CheckpointError(
                f"it names more than {MOST_FILES:,} files; do not load it unless you know who made it.", rule="F003"
            )
        path = self._directory / _plain_name(name)
        if not stays_home(path):
            raise CheckpointError(
                f"it names '{printable(name)}', a link that leads out of its directory; "
                "do not load it unless you know who made it, and copy the file itself there if you do.",
                rule="F007",
            )
        try:
            remote = None if self.mirror is None else self.mirror.open(name)
            mapping, descriptor = _open(path)
        except (FileNotFoundError, InputError):
            raise _missing(name, self._directory) from None
        except CheckpointError as error:
            raise CheckpointError(f"of '{printable(name)}', which it names, {error}", rule=error.rule) from None
        if len(self._open) >= _MOST_DESCRIPTORS:
            os.close(descriptor)
            descriptor = -1
        else:
            self._descriptors.append(descriptor)
        self._by_name[name] = len(self._open)
        self._open.append(OpenFile(name, path, mapping, descriptor, remote))
        return self._by_name[name]

    def close(self) -> None:
        """Let go of the mappings; each stays until the last view of it, such as a loaded tensor, is gone."""
        _close_all(self._descriptors)
        for file in self._open:
            with suppress(BufferError):
                file.mapping.close()
        if self.mirror is not None:
            self.mirror.close()


def _missing(name: str, directory: Path) -> CheckpointError:
    """What is said of a file that is not there: where those of another split are, the index is at fault."""
    found = f"it names '{printable(name)}', which is no readable file beside it"
    others = _other_splits(name, directory)
    if not others:
        return CheckpointError(f"{found}; get the whole checkpoint again.", rule="F008")
    count, numbers = max(others.items(), key=lambda other: (len(other[1]) / other[0], other[0]))
    there = f"where all {count} files of a split into {count} are"
    remedy = "get the index that belongs to those files, from where they are from and of the same revision"
    if lacking := sorted(set(range(1, count + 1)) - numbers):
        listed = ", ".join(map(str, lacking[:8])) + (", …" if len(lacking) > 8 else "")
        there = f"where {len(numbers)} of the {count} files of a split into {count} are"
        remedy += f", and the files that are missing from that split (part {listed})"
    return CheckpointError(
        f"{found}, {there}: the index is not theirs; {remedy}.",
        rule="F008",
        remedy=f"{remedy[0].upper()}{remedy[1:]}.",
    )


def _other_splits(name: str, directory: Path) -> dict[int, set[int]]:
    """The same checkpoint split into another number of files: how many files → which of them are in a directory."""
    found: dict[int, set[int]] = {}
    if (parts := _PART.fullmatch(name)) is not None:
        for other in (_PART.fullmatch(path.name) for path in directory.iterdir()):
            if other and (other[1], other[4]) == (parts[1], parts[4]) and other[3] != parts[3]:
                number, count = int(other[2]), int(other[3])
                if 1 <= number <= count:
                    found.setdefault(count, set()).add(number)
    return found


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _mapped(descriptor: int) -> mmap:
    """All of a file, copy-on-write; Linux is told that no memory need be kept for what is never written to."""
    if sys.platform != "linux":
        return mmap(descriptor, 0, access=ACCESS_COPY)
    return mmap(descriptor, 0, flags=MAP_PRIVATE | _MAP_NORESERVE, prot=PROT_READ | PROT_WRITE)


def _open(path: Path) -> tuple[mmap, int]:
    """The mapping, and the descriptor that it is of."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for someone to write into it.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise InputError(no_such_file(str(path), look_beside=False)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"Cannot open {printable(str(path), 1000)}: {reason}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"Not a regular file: {printable(str(path), 1000)}")
        if not status.st_size:
            raise CheckpointError("the file is empty, so its download or its saving failed; get it again.", rule="F001")
        return _mapped(descriptor), descriptor
    except (OSError, ValueError) as error:
        os.close(descriptor)
        raise InputError(f"Cannot map {printable(str(path), 1000)}: {printable(str(error))}") from None
    except (InputError, CheckpointError):
        os.close(descriptor)
        raise


def _plain_name(name: str) -> str:
    """The name, when it is one of a file in the same directory and of nothing else on any system."""
    if name in ("", ".", "..") or any(mark in name for mark in "/\\:\0") or writable(name) != name:
        raise CheckpointError(
            f"it names '{printable(name)}', where the name of a file beside it was expected; "
            "do not load it unless you know who made it.",
            rule="F007",
        )
    return name


def stays_home(path: Path) -> bool:
    """Whether a file, links followed, is in its directory, or where a hub's cache keeps the files of a snapshot."""
    target = Path(os.path.realpath(path))
    home = Path(os.path.realpath(path.parent))
    if target.parent == home:
        return True
    return home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs"

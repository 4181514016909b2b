"""Digests of files, tensors and weights.

A tensor's digest is of its values, not of the bytes it happens to be stored in: a view, a transposed stride, or a tied
weight digests as its contiguous, row-major, little-endian values would. Nothing here knows containers or torch.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

from manifest import progress
from manifest.errors import InputError

Buffer = Any
"""Anything with the buffer protocol: bytes, memoryview, mmap."""

READ_BLOCK = 1 << 20  # bytes; as much as stays in a processor's cache between reading and hashing
_LONG_BLOCK = 16 << 20  # where a thread waits for its turn in the interpreter after each
_AHEAD = 4 << 20  # bytes of a block that is read while the one before is hashed
_READ_AHEAD_FROM = 16 << 20  # bytes; below this, starting a thread costs more than it saves
_MOST_KEPT = 4
"""Buffers that are kept for the next range, of `_AHEAD` bytes each."""
_PARALLEL_FROM = 1 << 20  # bytes; below this, starting threads costs more than they save
_TENSOR_HEADER = b"manifest/tensor/v1\n"
_COMPOSITE_HEADER = b"manifest/composite/v1\n"
_WEIGHTS_HEADER = b"manifest/weights/v1\n"


_kept: list[bytearray] = []
_FORKED = threading.Event()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_FORKED.set)


def threads_for_hashing() -> int:
    """How many threads BLAKE3 may use: all cores, and one after a fork, since its pool of threads is not forked."""
    return 1 if _FORKED.is_set() else blake3.AUTO


def tagged(hexadecimal: str) -> str:
    """Name the algorithm in front of a digest, as every digest in a manifest does: `blake3:…`."""
    return f"blake3:{hexadecimal}"


def bytes_digest(data: Buffer) -> str:
    """BLAKE3 of a buffer, as 64 hexadecimal digits, on all cores when it is worth it."""
    view = memoryview(data).cast("B")
    threads = threads_for_hashing() if view.nbytes >= _PARALLEL_FROM else 1
    return blake3(view, max_threads=threads).hexdigest()


def tensor_digest(dtype: str, shape: Sequence[int], values: Buffer) -> str:
    """Digest of one tensor.

    Args:
        dtype: torch's name of the element type without `torch.`, for example `bfloat16`.
        shape: The tensor's shape; `()` for a scalar.
        values: Its elements, contiguous, row-major, little-endian.

    Returns:
        `blake3:` and 64 hexadecimal digits.
    """
    return streamed_tensor_digest(dtype, shape, (values,))


def streamed_tensor_digest(dtype: str, shape: Sequence[int], blocks: Iterable[Buffer], nbytes: int = 0) -> str:
    """The same digest, of values that come in consecutive blocks; of how many bytes in all, where that is known."""
    header = f"{dtype}[{','.join(map(str, shape))}]\n".encode()
    hasher: blake3 | None = None
    for block in blocks:
        view = memoryview(block).cast("B")
        if hasher is None:
            threads = threads_for_hashing() if max(view.nbytes, nbytes) >= _PARALLEL_FROM else 1
            hasher = blake3(_TENSOR_HEADER + header, max_threads=threads)
        hasher.update(view)
    return tagged((hasher or blake3(_TENSOR_HEADER + header)).hexdigest())


def composite_digest(
    layout: str, dtype: str, shape: Sequence[int], facts: Mapping[str, str], parts: Iterable[tuple[str, str]]
) -> str:
    """Digest of a tensor that is stored as several: a sparse one, or a quantized one with its scales.

    Args:
        layout: How the parts make the whole, for example `sparse_coo`.
        dtype: Element type of the whole.
        shape: Shape of the whole.
        facts: What else defines it, for example a scale.
        parts: `(role, tensor digest)` of each part.
    """
    hasher = blake3(_COMPOSITE_HEADER + f"{layout} {dtype}[{','.join(map(str, shape))}]\n".encode())
    for name, text in (*sorted(facts.items()), *sorted(parts)):
        hasher.update(f"{name}={text}\n".encode())
    return tagged(hasher.hexdigest())


def weights_digest(tensors: Iterable[tuple[str, str]]) -> str:
    """Digest of a whole set of weights, the same whatever container holds them.

    Args:
        tensors: `(name, tensor digest)` pairs in any order, names without wrapper prefixes and tied names expanded.
    """
    hasher = blake3(_WEIGHTS_HEADER)
    for name, digest in sorted(tensors):
        encoded = name.encode("utf-8", "surrogatepass")
        hasher.update(b"%d:%b=%b\n" % (len(encoded), encoded, digest.encode()))
    return tagged(hasher.hexdigest())


def text_digest(lines: Iterable[str]) -> str:
    """Digest of a sequence of lines, each ended by a newline."""
    return tagged(blake3("\n".join([*lines, ""]).encode("utf-8", "surrogatepass")).hexdigest())


def file_blake3(path: Path) -> str:
    """BLAKE3 of a file, on all cores, as 64 hexadecimal digits.

    Raises:
        InputError: The file was cut while it was read.
    """
    with path.open("rb") as file:
        return descriptor_blake3(file.fileno(), os.fstat(file.fileno()).st_size, path.name)


def descriptor_blake3(descriptor: int, size: int, name: str) -> str:
    """The same of an open file.

    Args:
        descriptor: The file.
        size: How many bytes it had when it was opened.
        name: What to call it in a message.
    """
    return blocks_blake3(read_blocks(descriptor, 0, size, name), size)


def blocks_blake3(blocks: Iterable[Buffer], size: int) -> str:
    """The same of so many bytes that come in consecutive blocks."""
    hasher = blake3(max_threads=threads_for_hashing() if size >= _PARALLEL_FROM else 1)
    for block in blocks:
        hasher.update(block)
    return hasher.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits.

    Raises:
        InputError: The file was cut while it was read.
    """
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for block in read_blocks(file.fileno(), 0, size, path.name, _LONG_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def read_blocks(descriptor: int, start: int, size: int, name: str, most: int = READ_BLOCK) -> Iterator[memoryview]:
    """A range of an open file in consecutive blocks, each valid until the next is asked for.

    It is read and not mapped: to touch a mapping where the file has been cut kills the process. Of a long range, the
    next block is read while its user works on one.

    Raises:
        InputError: The file ends earlier, since it was cut while it was read, or it cannot be read.
    """
    end = start + size
    if size < _READ_AHEAD_FROM:
        with _buffer(min(size, most)) as buffer:
            while start < end:
                block = _read(descriptor, buffer[: min(most, end - start)], start, name)
                yield block
                start += block.nbytes
                progress.read(block.nbytes)
        return
    most = max(most, _AHEAD)
    with (
        _buffer(most) as buffer,
        _buffer(most) as other,
        ThreadPoolExecutor(1, thread_name_prefix="manifest-reading") as ahead,
    ):
        coming = ahead.submit(_read, descriptor, buffer[: min(most, end - start)], start, name)
        while start < end:
            block = coming.result()
            start += block.nbytes
            buffer, other = other, buffer
            if start < end:
                coming = ahead.submit(_read, descriptor, buffer[: min(most, end - start)], start, name)
            yield block
            progress.read(block.nbytes)


@contextmanager
def _buffer(size: int) -> Iterator[memoryview]:
    """Memory of so many bytes; that of thousands of tensors in turn is asked of the system once."""
    if size > _AHEAD:
        yield memoryview(bytearray(size))
        return
    try:
        memory = _kept.pop()
    except IndexError:
        memory = bytearray(_AHEAD)
    try:
        yield memoryview(memory)[:size]
    finally:
        if len(_kept) < _MOST_KEPT:
            _kept.append(memory)


def _read(descriptor: int, block: memoryview, start: int, name: str) -> memoryview:
    """As much of a block as the file gives at once, a byte at least."""
    try:
        count = os.preadv(descriptor, [block], start)
    except OSError as error:
        raise InputError(f"Cannot read {name!r}: {error.strerror}") from None
    if not count:
        raise was_cut(name, start)
    return block[:count]


def was_cut(name: str, size: int) -> InputError:
    """The error of a file that ends earlier than it did, with the byte at which it does or reading stopped."""
    return InputError(
        f"{name!r} was cut at byte {size:,} while it was read; wait until nobody writes to it, and check it again."
    )


def descriptor_digests(descriptor: int, size: int, name: str) -> tuple[str, str]:
    """BLAKE3 and SHA-256 of an open file, in one pass.

    Args:
        descriptor: The file.
        size: How many bytes it had when it was opened.
        name: What to call it in a message.

    Raises:
        InputError: The file was cut while it was read.
    """
    threads = threads_for_hashing() if size >= _PARALLEL_FROM else 1
    blake, sha256 = blake3(max_threads=threads), hashlib.sha256()
    for block in read_blocks(descriptor, 0, size, name, _LONG_BLOCK):
        blake.update(block)
        sha256.update(block)
    return blake.hexdigest(), sha256.hexdigest()


def files_digests(paths: Iterable[Path]) -> list[tuple[str, str]]:
    """BLAKE3 and SHA-256 of each file."""
    return [file_digests(path) for path in paths]


def file_digests(path: Path) -> tuple[str, str]:
    """BLAKE3 and SHA-256 of a file, side by side; both release the interpreter lock.

    Returns:
        The two digests as hexadecimal digits, BLAKE3 first.
    """
    sha256: list[str] = []
    worker = threading.Thread(target=lambda: sha256.append(file_sha256(path)))
    worker.start()
    blake = file_blake3(path)
    worker.join()
    return blake, sha256[0]

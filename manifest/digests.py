"""Digests of files, tensors and weights.

A tensor's digest is of its values, not of the bytes it happens to be stored in: a view, a transposed stride, or a tied
weight digests as its contiguous, row-major, little-endian values would. Nothing here knows containers or torch.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from blake3 import blake3

Buffer = Any
"""Anything with the buffer protocol: bytes, memoryview, mmap."""

_PARALLEL_FROM = 1 << 20  # bytes; below this, starting threads costs more than they save
_TENSOR_HEADER = b"manifest/tensor/v1\n"
_COMPOSITE_HEADER = b"manifest/composite/v1\n"
_WEIGHTS_HEADER = b"manifest/weights/v1\n"


def tagged(hexadecimal: str) -> str:
    """Name the algorithm in front of a digest, as every digest in a manifest does: `blake3:…`."""
    return f"blake3:{hexadecimal}"


def bytes_digest(data: Buffer) -> str:
    """BLAKE3 of a buffer, as 64 hexadecimal digits, on all cores when it is worth it."""
    view = memoryview(data).cast("B")
    threads = blake3.AUTO if view.nbytes >= _PARALLEL_FROM else 1
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


def streamed_tensor_digest(dtype: str, shape: Sequence[int], blocks: Iterable[Buffer]) -> str:
    """The same digest, of values that come in consecutive blocks."""
    header = f"{dtype}[{','.join(map(str, shape))}]\n".encode()
    hasher: blake3 | None = None
    for block in blocks:
        view = memoryview(block).cast("B")
        if hasher is None:
            threads = blake3.AUTO if view.nbytes >= _PARALLEL_FROM else 1
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
    hasher = blake3()
    for line in lines:
        hasher.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return tagged(hasher.hexdigest())


def file_blake3(path: Path) -> str:
    """BLAKE3 of a file, memory-mapped, on all cores, as 64 hexadecimal digits."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return blake3().hexdigest()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return hashlib.sha256().hexdigest()
    # In one call, which lets go of the interpreter once; block by block, each would wait for other threads' turns.
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


def bytes_digests(data: Buffer) -> tuple[str, str]:
    """BLAKE3 and SHA-256 of a buffer, as hexadecimal digits."""
    return bytes_digest(data), hashlib.sha256(data).hexdigest()


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

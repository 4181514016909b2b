"""Writing a file that is hashed while it is written."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from blake3 import blake3

from manifest.digests import threads_for_hashing

_WORTH_A_THREAD = 1 << 20  # bytes


class HashedFile(io.RawIOBase):
    """A new file whose BLAKE3 and SHA-256 are taken of what is written, side by side with the writing.

    Its writer may only append, as those of torch do.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("xb", buffering=0)
        self._blake3 = blake3(max_threads=threads_for_hashing())
        self._sha256 = hashlib.sha256()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="manifest-hashing")
        self._small = bytearray()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() + len(self._small)

    def write(self, data: Any, /) -> int:
        """All of some bytes, whose buffer is the caller's again afterwards."""
        view = memoryview(data).cast("B")
        if view.nbytes < _WORTH_A_THREAD:
            self._small += view
            if len(self._small) >= _WORTH_A_THREAD:
                self.flush()
            return view.nbytes
        self.flush()
        self._pass_on(view)
        return view.nbytes

    def flush(self) -> None:
        if self._small:
            self._pass_on(memoryview(self._small))
            self._small = bytearray()

    def _pass_on(self, view: memoryview) -> None:
        updates: tuple[Callable[[Any], object], ...] = (self._sha256.update, self._blake3.update)
        hashing = [self._threads.submit(update, view) for update in updates]
        try:
            written = 0
            while written < view.nbytes:
                written += self._file.write(view[written:])
        finally:
            for one in hashing:  # they read the caller's memory
                one.result()

    def close(self) -> None:
        if not self.closed:
            try:
                self.flush()
            finally:
                self._threads.shutdown()
                self._file.close()
                super().close()

    @property
    def digests(self) -> tuple[str, str]:
        """BLAKE3 and SHA-256 of all that was written, as hexadecimal digits."""
        return self._blake3.hexdigest(), self._sha256.hexdigest()

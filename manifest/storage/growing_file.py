"""Hashing a file while another thread writes it."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from blake3 import blake3

from manifest import progress
from manifest.digests import threads_for_hashing

_BLOCK = 4 << 20  # bytes
_PAUSE = 0.002  # seconds, until there is more to read


def digests_of_growing(path: Path, written: Future[Any]) -> tuple[str, str]:
    """BLAKE3 and SHA-256 of a new file, read as it grows; hashing takes longer than writing.

    Args:
        path: The file, which need not be there yet.
        written: Done when all of it is. Its writer only appends, as those of torch do.

    Returns:
        The two digests as hexadecimal digits, BLAKE3 first.

    Raises:
        Exception: What the writer raised.
    """
    while not path.exists() and not written.done():
        time.sleep(_PAUSE)
    if written.done():
        written.result()
    blake, sha256 = blake3(max_threads=threads_for_hashing()), hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        whole = False
        while not whole:
            whole = written.done()  # before the last look, which then sees all of it
            while count := file.readinto(block):
                blake.update(block[:count])
                sha256.update(block[:count])
                progress.read(count)
            if not whole:
                time.sleep(_PAUSE)
    written.result()
    return blake.hexdigest(), sha256.hexdigest()

"""The mappings of some open files, and the digests of their bytes that are known already.

Every view of a checkpoint shares one such object, so no file is hashed twice. What lies in the files is not known here.
"""

from __future__ import annotations

import logging
import threading
import time

from manifest import progress
from manifest.checkpoint.files import Files
from manifest.errors import InputError

_log = logging.getLogger(__name__)


class Hashes:
    """The mappings of some open files, and what is known of their bytes; shared by all views of the files.

    Attributes:
        mappings: Of the files, in order.
        of_tensors: Tensor digests by the place of the tensor.
        closed: Whether the files are closed, so that only mappings can be read.
    """

    def __init__(self, files: Files) -> None:
        self.mappings = [file.mapping for file in files]
        self.of_tensors: dict[str, str] = {}
        self.closed = False
        self._files = files
        self._thread: threading.Thread | None = None
        self._of_files: list[str] | None = None
        self._cut: InputError | None = None

    def begin(self) -> None:
        self._thread = threading.Thread(target=self._hash, daemon=True)
        self._thread.start()

    def blake3(self, file: int) -> str:
        if self._thread is not None:
            self._thread.join()
        if self._of_files is None:
            self._hash()
        if self._cut is not None:
            raise self._cut
        assert self._of_files is not None
        return self._of_files[file]

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self.closed = True

    def _hash(self) -> None:
        started = time.perf_counter()
        try:
            self._of_files = [file.blake3() for file in self._files]
            _log.debug("hashed %d bytes in %.2f s", self._files.size, time.perf_counter() - started)
        except InputError as error:  # on another thread, nobody would hear of it
            self._cut = error
        except progress.StoppedError:
            _log.debug("stopped hashing after %.2f s", time.perf_counter() - started)

"""One file of a commit, downloaded by `huggingface_hub`, and never more of it than it may have."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import tqdm

from manifest import progress
from manifest.errors import HubError
from manifest.escaping import printable
from manifest.hub.repository import Commit, hub_errors
from manifest.version import __version__

_log = logging.getLogger(__name__)


def receive(commit: Commit, path: str, folder: Path, most: int) -> Path:
    """Download a file, and say as the progress of the step that is going on how much of it is there.

    Args:
        commit: Whose file.
        path: In the repository.
        folder: Where it is put, under its path in the repository. The library keeps notes in `.cache` beside it.
        most: The most bytes that it may have. The library says how many came before it writes them.

    Returns:
        Where it lies.

    Raises:
        HubError: It cannot be had, or more bytes come.
        OSError: It cannot be written.
    """
    _log.debug("downloading %s of %s, at most %d bytes", path, commit, most)
    with hub_errors(commit.repository, commit.sha):
        received = hf_hub_download(
            commit.repository,
            path,
            revision=commit.sha,
            local_dir=folder,
            tqdm_class=_counter(commit, path, most),
            library_name="checkpoint-manifest",
            library_version=__version__,
        )
    return Path(received)


def _counter(commit: Commit, path: str, most: int) -> type[tqdm]:
    """A bar of the library that shows nothing, counts the bytes, and ends the download where they are too many."""

    class Counter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self.count = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.count += int(n or 0)
            if self.count > most:
                raise HubError(
                    f"More than the {most:,} bytes that it may have came of {printable(path, 200)} of "
                    f"{commit.repository}; the download was ended and nothing kept, so ask whoever serves it."
                )
            progress.read(int(n or 0))

        def update_transfer(self, n: float) -> None:
            """What came over the network, where that is counted apart from the bytes of the file."""

        def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:
            """How fast it came."""

    return Counter

"""Ranges of bytes of a file at an address, one request each, by fsspec.

A web server is held to what it said first: the size and the tag of the file, in every answer. Of a bucket or a hub, the
same is looked up once more at the end (`Source.require_unchanged`). What fails for a moment is asked again.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, Protocol, TypeVar

from manifest.errors import InputError
from manifest.escaping import printable
from manifest.installing import install_command
from manifest.remote.addresses import Address

T = TypeVar("T")

_log = logging.getLogger(__name__)
_HEAD = 1 << 16  # bytes of the first request to a web server
_TRIES = 4
_FIRST_PAUSE = 0.25  # seconds; each further one is twice as long
_PATIENCE = 30.0  # seconds without an answer or a byte
_FOR_NOW = (408, 425, 429)
"""Refusals of a question that may be asked again: too slow, too early, too often."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_FACTS = ("ETag", "etag", "VersionId", "generation", "blob_id", "last_modified", "LastModified", "mtime", "size")
"""What back ends call that by which two states of a file are told apart."""


class Source(Protocol):
    """A file at an address.

    Attributes:
        size: Its bytes.
        head: The first of them, as many as were read already.
    """

    size: int
    head: bytes

    def read(self, start: int, end: int) -> bytes:
        """The bytes of a range, all of them.

        Raises:
            InputError: They cannot be had, or the file was changed since it was opened.
        """

    def require_unchanged(self) -> None:
        """Refuse a file that is another now.

        Raises:
            InputError: It is.
        """

    def facts(self) -> dict[str, str]:
        """What its server tells of it: the size, and that by which two states are told apart.

        Raises:
            InputError: It cannot be had.
        """


class _TryAgainError(Exception):
    """An answer that the same question may not get again."""


def facts(address: Address) -> dict[str, str] | None:
    """What the server of a file tells, at once and not out of a cache, by which two states of it are told apart.

    Returns:
        None where there is no such file.

    Raises:
        InputError: It cannot be had, or nothing but its size is told of it.
    """
    try:
        source = opened(address, head=1)
    except FileNotFoundError:
        return None
    found = source.facts()
    if found.keys() <= {"size"}:
        raise InputError(f"The server of {address.shown} does not tell whether it was changed; check it each time.")
    return found


def opened(address: Address, head: int = _HEAD) -> Source:
    """The file at an address, which was asked for its size.

    Args:
        address: The address.
        head: Bytes of the first request to a web server.

    Raises:
        FileNotFoundError: There is none.
        InputError: It cannot be had.
    """
    try:
        import fsspec

        options = _web_options() if address.is_web else {}
        system, path = fsspec.url_to_fs(address, **options)
    except ImportError as error:
        raise InputError(
            f"{address.shown} is read by {error.name or 'libraries'} of the extra remote, which is not installed: "
            f"`{install_command('remote')}`"
        ) from None
    return _WebFile(system, address, head) if address.is_web else _StoredFile(system, path, address)


class _WebFile:
    """A file of a web server."""

    def __init__(self, system: Any, address: Address, head: int) -> None:
        self._system, self._address = system, address
        self._tag: str | None = None
        self.size = -1
        self.head = b""  # of an empty file
        self.head = _tried(lambda: self._get(0, head), address)

    def read(self, start: int, end: int) -> bytes:
        if end <= len(self.head):
            return self.head[start:end]
        return _tried(lambda: self._get(start, end), self._address)

    def require_unchanged(self) -> None:
        """Each answer was held to the first one already."""

    def facts(self) -> dict[str, str]:
        return {"size": str(self.size)} | ({} if self._tag is None else {"ETag": self._tag})

    def _get(self, start: int, end: int) -> bytes:
        asked = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        # A stream, so that no more is read than was asked for; a size, so that it is not asked for beforehand.
        with closing(self._system.open(self._address, block_size=0, size=1, headers=asked)) as stream:
            count = self._answered(stream.r, start, end)
            data = bytearray()
            while len(data) < count and (block := stream.read(count - len(data))):
                data += block
        if len(data) < count:
            raise _TryAgainError(f"the answer ended after {len(data):,} of {count:,} bytes")
        return bytes(data)

    def _answered(self, answer: Any, start: int, end: int) -> int:
        """How many bytes an answer has, which must be those that were asked for, of the same file as before."""
        given = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status == 416 and start == 0:
            self.size = 0
            return 0
        if answer.status != 206 or given is None:
            raise InputError(
                f"{self._address.shown} is on a server that gives no parts of a file; "
                "download it, and pass the file that you get."
            )
        first, last, size = map(int, given.groups())
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if self.size < 0:
            self.size, self._tag = size, tag
        if (size, tag) != (self.size, self._tag):
            raise _changed(self._address)
        if first != start or last != min(end, size) - 1:
            raise _TryAgainError(f"bytes {first:,} to {last:,} came where {start:,} to {end - 1:,} were asked for")
        return last + 1 - first


class _StoredFile:
    """A file in a bucket or a repository."""

    head = b""

    def __init__(self, system: Any, path: str, address: Address) -> None:
        self._system, self._path, self._address = system, path, address
        self._facts = self._asked()
        self.size = int(self._facts["size"])

    def read(self, start: int, end: int) -> bytes:
        try:
            return _tried(lambda: self._get(start, end), self._address)
        except InputError:
            self.require_unchanged()  # or it was another file that was asked for these bytes
            raise

    def require_unchanged(self) -> None:
        self._system.invalidate_cache()
        if self._asked() != self._facts:
            raise _changed(self._address)

    def facts(self) -> dict[str, str]:
        self._system.invalidate_cache()
        return self._asked()

    def _get(self, start: int, end: int) -> bytes:
        data: bytes = self._system.cat_file(self._path, start=start, end=end)
        if len(data) != end - start:
            raise _TryAgainError(f"{len(data):,} bytes came where {end - start:,} were asked for")
        return data

    def _asked(self) -> dict[str, str]:
        found = _tried(lambda: self._system.info(self._path), self._address)
        return {name: str(found[name]) for name in _FACTS if found.get(name) is not None}


def _tried(ask: Callable[[], T], address: Address) -> T:
    """The answer to a question, which is asked again where that may help."""
    pause = _FIRST_PAUSE
    for left in reversed(range(_TRIES)):
        try:
            return ask()
        except (InputError, FileNotFoundError):
            raise
        except Exception as error:  # each back end has its own
            status = getattr(error, "status", None)
            refused = isinstance(status, int) and 400 <= status < 500 and status not in _FOR_NOW
            if not left or refused or isinstance(error, PermissionError):
                raise InputError(f"{address.shown} cannot be read ({_words(error)}); {_cure(error, status)}") from None
            _log.debug("%s: %s; asked again in %.2f s", address.shown, _words(error), pause)
            time.sleep(pause)
            pause *= 2
    raise AssertionError("the last try returns or raises")


def _words(error: Exception) -> str:
    status, message = getattr(error, "status", None), getattr(error, "message", None)
    text = f"{status} {message}" if status and message else str(error) or type(error).__name__
    return printable(" ".join(text.split()), 200)


def _cure(error: Exception, status: Any) -> str:
    if isinstance(error, PermissionError) or status in (401, 403):
        return "log in as its library wants it, or ask for access."
    return "check the address and the network, and try again."


def _changed(address: Address) -> InputError:
    return InputError(f"{address.shown} was changed while it was read; wait until nobody writes to it, and try again.")


def _web_options() -> dict[str, Any]:
    import aiohttp

    return {
        "client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)}
    }

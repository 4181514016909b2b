"""A web server of files on this machine, which gives ranges and can be told to fail."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Fault = Callable[[Any, int, int], bool]
"""Called with the request and the range that it asks for; whether it has answered the request."""


class Server:
    """A running server.

    Attributes:
        address: What the addresses of its files begin with.
        asked: Each range that was asked for, with the file's name.
        fault: What answers in place of the server, if it wants to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, int, int]] = []
        self.fault: Fault = lambda request, start, end: False  # noqa: ARG005
        self._server = _Quiet(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, name: str) -> int:
        """Bytes that were asked for of a file."""
        return sum(end - start for asked, start, end in self.asked if asked == name)


class _Quiet(ThreadingHTTPServer):
    """Of clients that go away it says nothing."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def failing_at_first(times: int, status: int) -> Fault:
    """The first answers are errors."""
    left = [times]

    def fault(request: Any, start: int, end: int) -> bool:
        del start, end
        if left[0] > 0:
            left[0] -= 1
            request.send_error(status)
            return True
        return False

    return fault


def cutting_once(request_number: int) -> Fault:
    """One of the answers ends in its middle."""
    count = [0]

    def fault(request: Any, start: int, end: int) -> bool:
        count[0] += 1
        if count[0] != request_number:
            return False
        request.head(start, end)
        request.wfile.write(request.bytes_of(start, end)[: (end - start) // 2])
        request.wfile.flush()
        request.close_connection = True
        return True

    return fault


def slow(seconds: float) -> Fault:
    """Every answer takes its time."""

    def fault(request: Any, start: int, end: int) -> bool:
        del request, start, end
        time.sleep(seconds)
        return False

    return fault


def changing_after(answers: int) -> Fault:
    """After some answers, the file is said to be another."""
    count = [0]

    def fault(request: Any, start: int, end: int) -> bool:
        count[0] += 1
        if count[0] <= answers:
            return False
        request.head(start, end, tag='"another"')
        request.wfile.write(request.bytes_of(start, end))
        return True

    return fault


def without_ranges(request: Any, start: int, end: int) -> bool:
    """All of the file, whatever was asked for."""
    del start, end
    data = request.file.read_bytes()
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)
    return True


def shifted(request: Any, start: int, end: int) -> bool:
    """Other bytes than those that were asked for, and honest about it."""
    if not start:
        return False
    request.head(start - 1, end - 1)
    request.wfile.write(request.bytes_of(start - 1, end - 1))
    return True


def endless(request: Any, start: int, end: int) -> bool:
    """More bytes than it says, as long as somebody reads them."""
    request.send_response(206)
    request.send_header("Content-Range", f"bytes {start}-{end - 1}/{request.file.stat().st_size}")
    request.send_header("ETag", '"same"')
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(request.bytes_of(start, end))
    try:
        for _ in range(10_000):
            request.wfile.write(bytes(1 << 16))
    except OSError:  # nobody reads any more
        request.close_connection = True
    return True


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        file: Path

        def do_GET(self) -> None:
            self.file = server.folder / unquote(urlsplit(self.path).path.lstrip("/"))
            if not self.file.is_file():
                self.send_error(404)
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            assert asked is not None
            start, end = int(asked[1]), min(int(asked[2]) + 1, self.file.stat().st_size)
            server.asked.append((self.file.name, start, end))
            if start >= end:
                self.send_error(416)
            elif not server.fault(self, start, end):
                self.head(start, end)
                self.wfile.write(self.bytes_of(start, end))

        def head(self, start: int, end: int, tag: str = '"same"') -> None:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{self.file.stat().st_size}")
            self.send_header("Content-Length", str(end - start))
            self.send_header("ETag", tag)
            self.end_headers()

        def bytes_of(self, start: int, end: int) -> bytes:
            with self.file.open("rb") as file:
                file.seek(start)
                return file.read(end - start)

        def log_message(self, format: str, *args: Any) -> None:
            del format, args

    return Handler

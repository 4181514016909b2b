"""A web server of a folder, on this machine, which gives ranges and counts what it is asked for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Served:
    """A running server.

    Attributes:
        address: What the addresses of its files begin with.
        requests: How many it has answered.
        sent: Bytes of files that it has given.
        delay: Seconds that it waits before each answer.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.delay = 0.0
        self.forget()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def forget(self) -> None:
        """Count anew."""
        self.requests = self.sent = 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(served) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - two of them are named `self` otherwise
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = served._folder / Path(self.path).name
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if asked is None or not path.is_file():
                    self.send_error(404)
                    return
                time.sleep(served.delay)
                size = path.stat().st_size
                start, end = int(asked[1]), min(int(asked[2]) + 1, size)
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(max(0, end - start))
                with served._lock:
                    served.requests += 1
                    served.sent += len(data)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{size}"')
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    server = Served(folder)
    try:
        yield server
    finally:
        server.close()

"""A hub of models on this machine, with repositories in memory: the calls of `huggingface_hub` that push and pull need.

Written after the library's own requests, answers and headers. Files that are no text, or longer than `LARGE`, are
stored as large ones: they are uploaded by their SHA-256 and downloaded from another address, to which a redirect leads.
Xet storage is not spoken.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 10_000  # bytes
TOKEN = "hf_secretOfTheTests1234"
Files = dict[str, bytes]


@dataclass
class Commit:
    sha: str
    files: Files
    message: str


@dataclass
class Repository:
    """Commits, oldest first, and which of them each branch is at."""

    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, message: str = "", branch: str = "main") -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits.append(Commit(sha, dict(files), message))
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> Commit | None:
        sha = self.branches.get(revision, revision)
        return next((each for each in self.commits if each.sha == sha), None)

    @property
    def head(self) -> Commit:
        commit = self.at("main")
        assert commit is not None
        return commit


Fault = Callable[["_Handler", bytes], bool]
"""Given the request of a file and the bytes that are asked for; whether it has answered itself."""


@dataclass
class Hub:
    """What lies there, what was asked for, and what goes wrong.

    Attributes:
        requests: Method and path, in their order.
        faults: By the path of a file in its repository.
        after_listing: Called once a commit was listed.
        status: The status of every answer, where it is not to be that of a hub.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)
    after_listing: Callable[[], object] | None = None
    status: int | None = None

    def repository(self, name: str) -> Repository:
        return self.repositories[name]

    def downloaded(self) -> set[str]:
        """Paths of the files that were asked for, in their repositories."""
        file = re.compile(
            r"(?:/[^/]+/[^/]+/resolve|/large)/[^/]+/(.+)"
        )  # after HEAD, the library asks where it leads to
        got = (file.fullmatch(path) for method, path in self.requests if method == "GET")
        return {unquote(found[1]) for found in got if found is not None}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a port of its own, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def is_large(path: str, data_or_size: bytes | int, sample: bytes = b"") -> bool:
    size = data_or_size if isinstance(data_or_size, int) else len(data_or_size)
    start = sample if isinstance(data_or_size, int) else data_or_size[:512]
    return size > LARGE or b"\0" in start or path.endswith((".pt", ".safetensors", ".distcp"))


class _Failure(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    _ROUTES = (
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "listing"),
        ("GET", r"/api/models/(?P<name>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<name>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/large/(?P<digest>[0-9a-f]+)", "upload"),
        ("POST", r"/large/verify", "uploaded"),
        ("(?:GET|HEAD)", r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("(?:GET|HEAD)", r"/large/(?P<digest>[0-9a-f]+)/(?P<path>.+)", "download"),
    )

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self.chunks())
        try:
            if self.hub.status is not None:
                raise _Failure(self.hub.status, message="told to")
            for method, pattern, action in self._ROUTES:
                found = re.fullmatch(pattern, path)
                if found and re.fullmatch(method, self.command):
                    getattr(self, action)(**{key: value and unquote(value) for key, value in found.groupdict().items()})
                    return
            raise _Failure(404, message="no such call")
        except _Failure as failure:
            headers = {"X-Error-Code": failure.code, "X-Error-Message": failure.message}
            self.send(b"{}", failure.status, {key: value for key, value in headers.items() if value})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - the names that http.server looks for

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def send(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_json(self, data: object, status: int = 200) -> None:
        self.send(json.dumps(data).encode(), status, {"Content-Type": "application/json"})

    def has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, name: str) -> Repository:
        repository = self.hub.repositories.get(name)
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            raise _Failure(401, message="Invalid credentials in Authorization header")
        if repository is None or (repository.private and not self.has_token()):
            raise _Failure(401 if repository is not None else 404, "RepoNotFound", "Repository not found")
        return repository

    def found_commit(self, name: str, revision: str | None) -> Commit:
        commit = self.found(name).at(revision or "main")
        if commit is None:
            raise _Failure(404, "RevisionNotFound", "Invalid rev id")
        return commit

    def require_writer(self) -> None:
        if not self.has_token():
            raise _Failure(401 if "Authorization" not in self.headers else 403, message="You may not write here")

    def create(self) -> None:
        self.require_writer()
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.hub.repositories:
            self.send_json({"url": f"{self.hub.address}/{name}"}, 409)
            return
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private)
        self.hub.repositories[name].commit({".gitattributes": b""}, "initial commit")
        self.send_json({"url": f"{self.hub.address}/{name}"})

    def validate(self) -> None:
        front = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        warnings = [] if front else [{"message": "empty or missing yaml metadata in repo card"}]
        self.send_json({"errors": [], "warnings": warnings})

    def listing(self, name: str, revision: str | None) -> None:
        commit, repository = self.found_commit(name, revision), self.hub.repository(name)
        siblings = []
        for path, data in commit.files.items():
            each: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if is_large(path, data):
                each["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
            siblings.append(each)
        known = {"id": name, "modelId": name, "private": repository.private, "gated": repository.gated, "tags": []}
        self.send_json({**known, "sha": commit.sha, "siblings": siblings})
        if "blobs" in parse_qs(urlsplit(self.path).query) and self.hub.after_listing is not None:
            self.hub.after_listing()

    def tree(self, name: str, revision: str, folder: str | None) -> None:
        """What lies in a folder of a repository, without what lies in folders of it."""
        start, entries = f"{folder}/" if folder else "", []
        for path, data in self.found_commit(name, revision).files.items():
            if path.startswith(start) and "/" not in path.removeprefix(start):
                oid = {"oid": hashlib.sha1(data).hexdigest(), "size": len(data)}
                lfs = {"lfs": {**oid, "oid": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}
                entries.append({"type": "file", "path": path, **oid, **(lfs if is_large(path, data) else {})})
        if not entries:
            raise _Failure(404, "EntryNotFound", "Entry not found")
        self.send_json(entries)

    def branch(self, name: str, revision: str) -> None:
        self.require_writer()
        repository = self.found(name)
        repository.branches[revision] = repository.head.sha
        self.send_json({}, 201)

    def preupload(self, name: str, revision: str) -> None:
        self.require_writer()
        asked, commit = json.loads(self.body), self.found_commit(name, revision)
        ignored = asked.get("gitIgnore", commit.files.get(".gitignore", b"").decode()).split()
        files = []
        for each in asked["files"]:
            large = is_large(each["path"], each["size"], base64.b64decode(each["sample"]))
            ignore = any(each["path"].endswith(pattern.lstrip("*")) for pattern in ignored)
            files.append({"path": each["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignore})
        self.send_json({"files": files})

    def batch(self, name: str) -> None:
        self.require_writer()
        self.found(name)
        objects = []
        for each in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.address}/large/{each['oid']}"}}
            actions["verify"] = {"href": f"{self.hub.address}/large/verify"}
            there = each["oid"] in self.hub.large
            objects.append({"oid": each["oid"], "size": each["size"], **({} if there else {"actions": actions})})
        self.send_json({"transfer": "basic", "objects": objects})

    def upload(self, digest: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise _Failure(400, message="these are other bytes")
        self.hub.large[digest] = self.body
        self.send(b"")

    def uploaded(self) -> None:
        if json.loads(self.body)["oid"] not in self.hub.large:
            raise _Failure(404, message="it was not uploaded")
        self.send_json({})

    def commit(self, name: str, revision: str) -> None:
        self.require_writer()
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        parent, repository = self.found_commit(name, revision), self.hub.repository(name)
        if header["value"].get("parentCommit", parent.sha) != parent.sha:
            raise _Failure(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for each in operations:
            value = each["value"]
            if each["key"] == "deletedFile":
                del files[value["path"]]
            elif each["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        sha = repository.commit(files, header["value"]["summary"], revision)
        self.send_json({"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit = self.found_commit(name, revision)
        if self.hub.repository(name).gated:
            raise _Failure(403, "GatedRepo", "Access to it is restricted")
        if path not in commit.files:
            raise _Failure(404, "EntryNotFound", "Entry not found")
        data = commit.files[path]
        headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if is_large(path, data):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.large[digest] = data
            headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{digest}"'}
            elsewhere = self.hub.address.replace("127.0.0.1", "localhost")  # another host, which gets no token
            self.send(b"", 302, {**headers, "Location": f"{elsewhere}/large/{digest}/{path}"})
        else:
            self.send_file(path, data, headers)

    def download(self, digest: str, path: str) -> None:
        assert "Authorization" not in self.headers
        self.send_file(path, self.hub.large[digest], {"ETag": f'"{digest}"'})

    def send_file(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(asked[1]), int(asked[2] or len(data) - 1) + 1) if asked else (0, len(data))
        fault = self.hub.faults.get(path)
        if self.command == "GET" and fault is not None and fault(self, data[start:end]):
            return
        if asked:
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        self.send(data[start:end], 206 if asked else 200, headers)


def cutting(times: int) -> Fault:
    """The first answers break off in their middle."""
    left = [times]

    def fault(request: _Handler, data: bytes) -> bool:
        left[0] -= 1
        if left[0] < 0:
            return False
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[: len(data) // 2])
        request.close_connection = True
        return True

    return fault


def endless(request: _Handler, data: bytes) -> bool:
    """The file, and then more, for as long as somebody reads."""
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.close_connection = True
    while True:
        request.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def stuck(request: _Handler, data: bytes) -> bool:
    """Half of the file, and then nothing until the reader goes away."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data[: len(data) // 2])
    request.wfile.flush()
    request.connection.settimeout(60)
    request.close_connection = True
    return request.rfile.read(1) is not None


def slow(request: _Handler, data: bytes) -> bool:
    """The file, after some time."""
    del request, data
    time.sleep(0.3)
    return False

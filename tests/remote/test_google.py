"""Checkpoints in a bucket of Google's, of a server that speaks as theirs does."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import manifest
from manifest.errors import InputError
from manifest.storage.states import is_still, state_of
from tests.local_server import JsonHandler, listening

gcsfs: Any = pytest.importorskip("gcsfs", reason="the extra remote is not installed")


class Bucket(dict[str, bytes]):
    """What the bucket `weights` holds: the bytes by the names of the objects."""


@contextmanager
def serving(bucket: Bucket) -> Iterator[str]:
    """A server of a bucket by the JSON API of Google Cloud Storage: what is known of an object, and its bytes."""

    class Handler(JsonHandler, BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            place = urlsplit(self.path)
            found = re.fullmatch(r"(?:/download)?/storage/v1/b/weights/o/([^/]+)", place.path)
            name = unquote(found[1]) if found else None
            if name not in bucket:
                self.answer(404, {"error": {"code": 404, "message": "Not Found"}})
            elif "alt=media" in place.query:
                self.send_part(bucket[name])
            else:
                self.answer(200, self.facts(name, bucket[name]))

        def facts(self, name: str, data: bytes) -> dict[str, str]:
            digest = hashlib.md5(data).digest()
            generation = str(int.from_bytes(digest[:7], "big"))
            return {
                "kind": "storage#object",
                "bucket": "weights",
                "name": name,
                "size": str(len(data)),
                "generation": generation,
                "etag": f"{generation}/1",
                "md5Hash": base64.b64encode(digest).decode(),
                "timeCreated": "2026-11-01T00:00:00.000Z",
                "updated": "2026-11-01T00:00:00.000Z",
            }

        def send_part(self, data: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            assert asked is not None, "all of a file was asked for"
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self.send_response(206)
            self.send_header("Content-Length", str(end - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.end_headers()
            self.wfile.write(data[start:end])

    with listening(Handler) as address:
        yield address


@pytest.fixture
def bucket(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The published files in a bucket, which the library asks."""
    held = Bucket({f"run/{path.name}": path.read_bytes() for path in published.glob("digits*")})
    system = gcsfs.GCSFileSystem
    with serving(held) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        system.clear_instance_cache()
        yield held
        system.clear_instance_cache()


def test_checkpoint_in_a_bucket_is_audited_and_verified(bucket: Bucket, published: Path) -> None:
    del bucket
    report = manifest.audit("gs://weights/run/digits.pt")
    assert (report.container, report.path) == ("torch-zip", "gs://weights/run/digits.pt")
    assert manifest.verify("gs://weights/run/digits.safetensors", key=published / "release.pub", fast=True).passed


def test_byte_that_was_changed_in_a_bucket_is_found(bucket: Bucket, published: Path) -> None:
    name = "run/digits.safetensors"
    bucket[name] = bucket[name][:-1] + b"?"
    assert not manifest.verify(f"gs://weights/{name}", key=published / "release.pub", fast=True).passed


def test_object_that_was_replaced_is_told_from_the_one_before(bucket: Bucket) -> None:
    address = "gs://weights/run/digits.pt"
    before = state_of(address)
    assert is_still(address, before)
    bucket["run/digits.pt"] = bucket["run/digits-legacy.pt"]
    assert not is_still(address, before)


def test_nothing_at_an_address_in_a_bucket_is_said_in_a_sentence(bucket: Bucket) -> None:
    del bucket
    with pytest.raises(InputError, match=r"There is no file gs://weights/run/none\.pt; check the address"):
        manifest.audit("gs://weights/run/none.pt")

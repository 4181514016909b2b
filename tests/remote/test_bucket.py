"""Checkpoints in a bucket, of a server that speaks as S3 does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import manifest
from manifest.errors import InputError
from manifest.remote import reading


@pytest.fixture(scope="module")
def bucket(published: Path) -> Iterator[Any]:
    """A bucket `weights` with the published files, and the client that put them there."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import fsspec

    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="weights")
        for path in published.glob("digits*"):
            client.upload_file(str(path), "weights", f"run/{path.name}")
        fsspec.filesystem("s3").clear_instance_cache()
        yield client
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_checkpoint_in_a_bucket_is_audited_and_verified(bucket: Any, published: Path) -> None:
    del bucket
    report = manifest.audit("s3://weights/run/digits.pt")
    assert (report.container, report.path) == ("torch-zip", "s3://weights/run/digits.pt")
    assert manifest.verify("s3://weights/run/digits.safetensors", key=published / "release.pub", fast=True).passed


def test_checkpoint_that_is_replaced_while_it_is_read_is_refused(
    bucket: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get, count = reading._StoredFile._get, [0]

    def replaced(self: Any, start: int, end: int) -> bytes:
        count[0] += 1
        if count[0] == 3:
            bucket.upload_file(str(published / "digits-legacy.pt"), "weights", "run/digits.pt")
        return get(self, start, end)

    monkeypatch.setattr(reading._StoredFile, "_get", replaced)
    with pytest.raises(InputError, match="was changed while it was read"):
        manifest.audit("s3://weights/run/digits.pt")


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://weights/run/none.pt", "There is no file s3://weights/run/none.pt; check the address"),
        ("s3://nowhere/digits.pt", "s3://nowhere/digits.pt"),
    ],
)
def test_address_in_a_bucket_of_nothing_ends_in_a_sentence(bucket: Any, address: str, sentence: str) -> None:
    del bucket
    with pytest.raises(InputError, match=sentence):
        manifest.audit(address)

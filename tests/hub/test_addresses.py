"""Checkpoints in a repository of a hub, read where they are."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

import manifest
from manifest.errors import InputError
from tests.hub.server import Hub

pytestmark = pytest.mark.usefixtures("pushed")


@pytest.fixture(autouse=True)
def _no_cached_hub() -> None:
    """Each test has another hub."""
    pytest.importorskip("huggingface_hub").HfFileSystem.clear_instance_cache()
    fsspec.filesystem("file").clear_instance_cache()


def test_checkpoint_in_a_repository_is_audited_and_verified_where_it_is(pushed: Hub, made: Path) -> None:
    del pushed
    address = "hf://acme/clip/clip.safetensors"
    report = manifest.audit(address)
    assert (report.path, report.safety, report.container) == (address, "safe", "safetensors")
    assert manifest.verify(address, key=made / "release.pub", fast=True).passed


def test_revision_may_be_named(pushed: Hub) -> None:
    del pushed
    assert manifest.audit("hf://acme/clip@main/clip.safetensors").safety == "safe"


@pytest.mark.parametrize(
    "address", ["hf://acme/clip/none.safetensors", "hf://acme/none/clip.safetensors", "hf://acme/clip@none/clip.pt"]
)
def test_nothing_at_an_address_of_a_repository_is_said_in_a_sentence(address: str, pushed: Hub) -> None:
    del pushed
    with pytest.raises(InputError, match="hf://acme/"):
        manifest.audit(address)

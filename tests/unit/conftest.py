"""What models with their own ways to a hub, and small ones, are tested under."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is tried fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def alone() -> Iterator[None]:
    """On one thread: small models spend their time waiting for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

"""A Ray cluster on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import manifest

STORE = 80 << 20
"""Bytes of a node's memory for what is passed on, the least that Ray takes."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each, whose address is in the environment."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(manifest.__file__).parents[1]), *sys.path]))
        running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE})
        running.add_node(num_cpus=1, object_store_memory=STORE)
        patch.setenv("RAY_ADDRESS", running.address)
        yield running
        ray.shutdown()
        running.shutdown()

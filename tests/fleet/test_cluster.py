"""The engine ray, by the tests in `cluster_cases`, which have a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cluster_cases.py")


@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed")
def test_cluster_of_two_nodes_gives_one_report_for_each_checkpoint(tmp_path: Path, whole: bool) -> None:
    words = ["-s", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'cases'}", *(["--whole"] if whole else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *words, str(CASES)]
    done = subprocess.run(command, cwd=CASES.parents[2], env=environment, capture_output=True, text=True, check=False)
    print("\n".join(line for line in done.stdout.splitlines() if "ray: " in line))
    assert done.returncode == 0, done.stdout[-10_000:]

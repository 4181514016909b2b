"""A Ray cluster of two nodes: workers, a node and the command are killed, and each checkpoint has one report.

Ray leaves threads behind, with which no other test should fork. So `test_cluster` runs these in a process of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import manifest
from manifest.schema.report import Kind, Report
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars
from tests.conftest import Answer
from tests.fleet.conftest import STORE
from tests.fleet.population import copies
from tests.fleet.test_soak import soak

ray: Any = pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture
def folder(tmp_path: Path, digits: ModuleType) -> Path:
    """Twelve checkpoints, of which one is broken."""
    return copies(digits.WEIGHTS, tmp_path / "many", 12, broken=4)


def paths_of(folder: Path, count: int = 12) -> list[Path]:
    """So many names; a check that looks at nothing needs no files."""
    return [folder / f"{number:02}" for number in range(count)]


def test_audit_by_a_cluster_says_what_one_by_this_machine_says(
    cluster: Any, folder: Path, run: Callable[..., Answer], run_process: Callable[..., Answer]
) -> None:
    del cluster
    here = run_process("audit", folder, "--workers", "1")
    there = run("audit", folder, "--engine", "ray")
    assert (there.code, there.out) == (here.code, here.out) == (1, here.out)


def test_workers_of_both_nodes_check(cluster: Any, tmp_path: Path) -> None:
    def where(path: Path) -> Report:
        time.sleep(0.2)
        node = ray.get_runtime_context().get_node_id()
        return Report(kind=Kind.AUDIT, subject=f"{node} {os.getpid()}", path=str(path))

    reports = list(manifest.fleet.map(where, paths_of(tmp_path), engine="ray"))
    assert sorted(str(report.path) for report in reports) == [str(path) for path in paths_of(tmp_path)]
    nodes = {report.subject.split()[0] for report in reports}
    assert nodes == {node.node_id for node in (cluster.head_node, *cluster.worker_nodes)}
    assert str(os.getpid()) not in {report.subject.split()[1] for report in reports}


def test_keys_are_sent_to_workers(cluster: Any, tmp_path: Path, digits: ModuleType, run: Callable[..., Answer]) -> None:
    del cluster
    private, public = generate_keys(tmp_path / "release")
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        shutil.copy(digits.WEIGHTS, path)
        shutil.copy(Sidecars(digits.WEIGHTS).manifest, Sidecars(path).manifest)
        manifest.sign(path, key=private)
    with (tmp_path / "2.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    answer = run("verify", tmp_path, "--key", public, "--engine", "ray", "--fast", "--format", "json")
    assert answer.code == 1, answer
    assert [each["rungs"][0]["outcome"] for each in json.loads(answer.out)] == ["pass"] * 3
    assert [each["rungs"][1]["outcome"] for each in json.loads(answer.out)] == ["pass", "pass", "fail"]


def test_file_that_ends_its_worker_twice_is_the_only_one_without_a_report(cluster: Any, tmp_path: Path) -> None:
    del cluster

    def check(path: Path) -> Report:
        mark = tmp_path / f"{path.name}.mark"
        if path.name == "05" or (path.name == "07" and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Report(kind=Kind.AUDIT, subject=path.name, path=str(path))

    reports = {report.subject: report for report in manifest.fleet.map(check, paths_of(tmp_path), engine="ray")}
    assert sorted(reports) == [path.name for path in paths_of(tmp_path)]
    assert [name for name, report in reports.items() if report.error] == ["05"]
    assert "ended the process that checked it, twice" in str(reports["05"].error)


def test_command_that_was_killed_goes_on_where_it_was(cluster: Any, folder: Path, run: Callable[..., Answer]) -> None:
    del cluster
    for number in range(12, 150):
        shutil.copy(folder / "00.safetensors", folder / f"{number}.safetensors")
    journal = folder.parent / "results.jsonl"
    command = [sys.executable, "-m", "manifest", "audit", str(folder), "--engine", "ray", "--journal", str(journal)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 3):
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
    left = 150 - journal.read_bytes().count(b"\n")
    assert left > 0
    whole = run("audit", folder, "--engine", "ray", "--journal", journal)
    assert "149 of 150 pass" in whole.out
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert Counter(line["path"] for line in lines) == Counter(map(str, folder.iterdir()))


def test_node_that_is_lost_loses_no_report(cluster: Any, tmp_path: Path) -> None:
    def slow(path: Path) -> Report:
        time.sleep(0.3)
        return Report(kind=Kind.AUDIT, subject=path.name, path=str(path))

    found = []
    for report in manifest.fleet.map(slow, paths_of(tmp_path, 30), engine="ray"):
        found.append(report)
        if len(found) == 5:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    cluster.add_node(num_cpus=1, object_store_memory=STORE)
    assert sorted(report.subject for report in found) == [path.name for path in paths_of(tmp_path, 30)]
    assert not any(report.error for report in found)


def test_cluster_that_is_not_there_is_said_in_a_sentence(folder: Path, run_process: Callable[..., Answer]) -> None:
    answer = run_process("audit", folder, "--engine", "ray", RAY_ADDRESS="127.0.0.1:9")
    assert "The cluster cannot be reached" in answer.complaint
    assert "check $RAY_ADDRESS" in answer.complaint


def test_each_of_thousands_has_one_result_after_two_kills(cluster: Any, tmp_path: Path, whole: bool) -> None:
    del cluster
    soak("ray", tmp_path, whole=whole)

"""A save that is killed at any moment leaves the old checkpoint verifiable, or the new one."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import manifest
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest
from manifest.workflows.repairing import repair
from tests.warm import warm_run

CHILD = """
    import os, shutil, signal, sys
    from itertools import count
    from pathlib import Path
    import open_clip
    import torch
    import manifest

    config, weights, original, place, key = sys.argv[1:]
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    open_clip.add_model_config(config)
    model = manifest.load(weights, verify="none")
    with torch.no_grad():
        model.logit_scale.add_(0.25)

    def save(target, fatal):
        calls = 0

        def counted(function):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            return call

        for name in ("replace", "unlink", "chmod"):
            setattr(Path, name, counted(getattr(Path, name)))
        os.fsync = counted(os.fsync)
        manifest.save(model, target, key=target.with_name(key) if key else None, golden=False)

    for fatal in count(1):
        target = Path(place) / f"{fatal:03}" / "ckpt.pt"
        shutil.copytree(original, target.parent)
        child = os.fork()
        if child == 0:
            save(target, fatal)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
"""


def save_killed(digits: Any, original: Path, place: Path, key: str) -> list[Path]:
    """Save other weights over copies of a checkpoint, in processes that die at their 1st, 2nd … step on the disk.

    Steps are renames, removals, changes of mode, and synchronisations. The last save is not killed.
    """
    arguments = (digits.HERE / "digits-clip.json", digits.WEIGHTS, original, place, key)
    done = warm_run(["-c", textwrap.dedent(CHILD), *arguments], place)
    assert done.returncode == 0, done.stderr
    return sorted(place.glob("*/ckpt.pt"))


@pytest.mark.parametrize(
    "key",
    ["release.key", pytest.param("", marks=pytest.mark.whole)],
    ids=["signed-over-signed", "unsigned-over-signed"],
)
def test_save_killed_at_any_step_leaves_one_whole_checkpoint(
    digits: Any, original: Path, tmp_path: Path, key: str
) -> None:
    old = read_manifest(original / "ckpt.pt").weights.digest
    paths = save_killed(digits, original, tmp_path, key)
    seen = []
    for path in paths:
        digest = read_manifest(path).weights.digest
        seen.append(digest)
        trusted = path.with_name("release.pub") if key or digest == old else None
        assert manifest.verify(path, key=trusted, fast=True).exit_code == 0
    new = seen[-1]
    switch = seen.index(new)
    assert len(paths) > 10
    assert old != new
    assert 0 < switch < len(paths) - 1
    assert seen == [old] * switch + [new] * (len(paths) - switch)


@pytest.fixture
def replaced(digits: Any, original: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The old checkpoint, and the one that a save would have put in its place."""
    shutil.copytree(original, tmp_path / "old")
    shutil.copytree(original, tmp_path / "new")
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    with torch.no_grad():
        model.logit_scale.add_(0.25)
    manifest.save(model, tmp_path / "new" / "ckpt.pt", key=original / "release.key", golden=False)
    return tmp_path / "old" / "ckpt.pt", tmp_path / "new" / "ckpt.pt"


def test_pending_sidecars_of_a_whole_save_are_used_by_reads_and_placed_by_a_repair(
    replaced: tuple[Path, Path],
) -> None:
    path, done = replaced
    sidecars = Sidecars(path)
    shutil.copy(done, path)
    shutil.copy(Sidecars(done).manifest, sidecars.pending_manifest)
    shutil.copy(Sidecars(done).signature, sidecars.pending_signature)
    report = manifest.verify(path, key=path.with_name("release.pub"), fast=True)
    assert report.exit_code == 0
    assert [item.rule for rung in report.rungs for item in rung.findings] == ["T009"]
    assert sidecars.pending_manifest.exists()
    repair(path)
    assert not sidecars.pending_manifest.exists()
    assert not sidecars.pending_signature.exists()
    assert sidecars.manifest.read_bytes() == Sidecars(done).manifest.read_bytes()


def test_pending_sidecars_of_another_save_are_left_alone(replaced: tuple[Path, Path]) -> None:
    path, done = replaced
    shutil.copy(Sidecars(done).manifest, Sidecars(path).pending_manifest)
    before = Sidecars(path).manifest.read_bytes()
    assert manifest.verify(path, key=path.with_name("release.pub"), fast=True).exit_code == 0
    assert Sidecars(path).manifest.read_bytes() == before


def test_signed_save_over_an_unsigned_checkpoint_verifies(digits_model: Any, original: Path, tmp_path: Path) -> None:
    manifest.save(digits_model, tmp_path / "x.pt", golden=False)
    with torch.no_grad():
        digits_model.logit_scale.add_(0.25)
    manifest.save(digits_model, tmp_path / "x.pt", key=original / "release.key", golden=False)
    assert manifest.verify(tmp_path / "x.pt", key=original / "release.pub", fast=True).exit_code == 0

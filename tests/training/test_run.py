"""`manifest run`: scripts that know nothing of manifests, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import manifest
from manifest.signing import generate_keys
from manifest.storage.transaction import read_manifest
from manifest.training.settings import RecordSettings
from tests.conftest import Answer
from tests.warm import warm_run

SCRIPTS = Path(__file__).parent / "scripts"


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, str(SCRIPTS)])}


def run_in(place: Path, *arguments: object) -> Ended:
    """`manifest run ARGUMENTS` in a directory, as everybody runs it."""
    words = [sys.executable, "-m", "manifest", "run", *map(str, arguments)]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False, env=_environment())
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Ended]:
    """`python ARGUMENTS` in an empty directory, as `manifest run` starts it; with settings by keyword."""

    def call(*arguments: object, golden: str = "none") -> Ended:
        variables = RecordSettings(golden=golden).variables()
        done = warm_run(arguments, tmp_path, {**_environment(), **variables})
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="module")
def under_torchrun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What two trainings left under torchrun, each of two processes, and what `manifest run` said."""
    place = tmp_path_factory.mktemp("torchrun")
    options = ["--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    ended = run_in(place, "--verbose", "--", "torchrun", *options, SCRIPTS / "two_trainings.py", place)
    assert ended.code == 0, ended
    return place, ended.err


def test_a_plain_script_gets_signed_manifests(tmp_path: Path) -> None:
    generate_keys(tmp_path / "release")
    options = ["--key", "release.key", "--verbose"]
    ended = run_in(tmp_path, *options, "--", "python", SCRIPTS / "plain.py", "--epochs", 3, "--out", "out")
    assert (ended.code, ended.out[:5]) == (0, "loss "), ended
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "last.pt",
        "last.pt.manifest.json",
        "last.pt.manifest.sig",
        "metrics.pt",
    ]
    assert "described out/last.pt" in ended.err
    assert "left out/metrics.pt alone" in ended.err
    sys.path.append(str(SCRIPTS))
    try:
        report = manifest.verify(tmp_path / "out" / "last.pt", key=tmp_path / "release.pub", allow=["own_networks"])
    finally:
        sys.path.remove(str(SCRIPTS))
    assert report.passed, report


def test_training_when_recorded_then_ends_with_the_same_weights(recorded: Callable[..., Ended], tmp_path: Path) -> None:
    ended = recorded(SCRIPTS / "plain.py", "--out", "out")
    alone = warm_run([SCRIPTS / "plain.py", "--out", "alone"], tmp_path, _environment())
    assert alone.returncode == 0, alone
    assert ended.out == alone.stdout
    weights = [torch.load(tmp_path / place / "last.pt")["model"] for place in ("out", "alone")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_module_when_run_by_name_then_its_saves_are_described(recorded: Callable[..., Ended], tmp_path: Path) -> None:
    ended = recorded("-m", "plain", "--epochs", 1)
    assert ended.code == 0, ended
    assert read_manifest(tmp_path / "out" / "last.pt").architecture.name == "own_networks:Perceptron"


def test_script_when_it_fails_then_has_its_traceback_and_its_manifests(
    recorded: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = recorded(SCRIPTS / "plain.py", "--fail")
    assert ended.code == 1
    assert "RuntimeError: the training itself failed" in ended.err
    assert manifest.verify(tmp_path / "out" / "last.pt", fast=True).passed


def test_timms_own_saver_is_followed_through_links_copies_and_removals(
    recorded: Callable[..., Ended], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    ended = recorded(SCRIPTS / "timm_style.py", "out", golden="every")
    assert ended.code == 0, ended
    checkpoints = sorted(path for path in (tmp_path / "out").iterdir() if path.suffix == ".tar")
    assert [path.name for path in checkpoints] == [
        "checkpoint-1.pth.tar",
        "checkpoint-3.pth.tar",
        "last.pth.tar",
        "model_best.pth.tar",
    ]
    others = sorted(path.name for path in (tmp_path / "out").iterdir() if path not in checkpoints)
    assert others == [f"{path.name}.manifest.json" for path in checkpoints]
    for path in checkpoints:
        assert manifest.verify(path, fast=True).passed
        assert [each.state.path for each in read_manifest(path).others] == [["state_dict_ema"]]
    assert manifest.verify(checkpoints[0]).passed


def test_under_torchrun_process_0_writes_the_manifests(under_torchrun: tuple[Path, str]) -> None:
    place, _ = under_torchrun
    assert sorted(path.name for path in place.iterdir() if path.suffix in (".json", ".pt")) == [
        "epoch_1.pt",
        "epoch_1.pt.manifest.json",
        "mine_0.pt",
        "mine_0.pt.manifest.json",
        "mine_1.pt",
    ]
    report = manifest.verify(place / "epoch_1.pt")
    assert report.passed, report


def test_a_model_in_shards_is_described_by_all_processes(under_torchrun: tuple[Path, str]) -> None:
    place, said = under_torchrun
    assert re.search(r"described .*\bsharded\b", said)
    report = manifest.verify(place / "sharded")
    assert report.passed, report
    assert read_manifest(place / "sharded").architecture.name == "vit_tiny_patch16_224"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--", "no-such-command"], "There is no command no-such-command"),
        (["--", "./folder"], "There is no command ./folder"),
        (["--floor", "deep", "--", "true"], "floor is 'deep'"),
        (["--golden", "sometimes", "--", "nowhere.py"], "golden is 'sometimes'"),
        (["--key", "nowhere.key", "--", "nowhere.py"], "nowhere.key"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(run: Callable[..., Answer], arguments: list[str], sentence: str) -> None:
    assert sentence in run("run", *arguments).complaint

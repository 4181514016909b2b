"""open_clip's own trainer, unchanged, under `manifest run`: its checkpoints verify, load and resume."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import manifest
from manifest.kinship.answers import Relation
from manifest.storage.transaction import read_manifest
from tests.warm import warm_run

SCRIPTS = Path(__file__).parent / "scripts"
MODULE = ("-m", "open_clip_train.main")
SMALL = (str(SCRIPTS / "open_clip_of_digits.py"),)
TORCHRUN = ("torchrun", "--nproc_per_node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--")
"""After "--", or torchrun takes `--logs` for an abbreviation of an option of its own."""
OPTIONS = (
    *("--dataset-type", "synthetic", "--train-num-samples", "8", "--batch-size", "4"),
    *("--workers", "0", "--device", "cpu", "--dist-backend", "gloo", "--logs", "logs", "--warmup", "1"),
)

Trainer = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Trains under a name, and returns the folder of its checkpoints; the small model with the libraries imported."""
    place = tmp_path_factory.mktemp("training")

    def call(name: str, *options: str, program: Sequence[str] = MODULE, epochs: int = 1) -> Path:
        model = "digits-clip" if program == SMALL else "ViT-S-32-alt"
        words = [*program, *OPTIONS, "--model", model, "--epochs", str(epochs), "--name", name, *options]
        command = ["-m", "manifest", "run", "--", *words]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        if program == SMALL:
            done = warm_run(command, place, env)
        else:
            command = [sys.executable, *command]
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        return place / "logs" / name / "checkpoints"

    return call


def promised(path: Path) -> None:
    report = manifest.verify(path)
    assert report.passed, report
    golden = next(rung for rung in report.rungs if rung.name == "golden")
    assert golden.outcome == "pass"


@pytest.mark.parametrize(
    ("program", "layers"),
    [pytest.param(SMALL, 4, id="small"), pytest.param(MODULE, 12, id="ViT-S-32-alt", marks=pytest.mark.whole)],
)
def test_its_checkpoint_verifies_loads_and_resumes(
    train: Trainer, program: Sequence[str], layers: int, whole: bool
) -> None:
    size = "small" if program == SMALL else "large"
    first = train(f"first-{size}", "--force-quick-gelu", "--save-most-recent", program=program) / "epoch_1.pt"
    promised(first)
    latest = first.with_name("epoch_latest.pt")
    assert read_manifest(latest).weights.digest == read_manifest(first).weights.digest
    assert manifest.verify(latest, fast=True).passed
    assert not first.with_name("tmp.pt.manifest.json").exists()
    assert read_manifest(first).architecture.activations["visual"] == {"QuickGELU": layers}
    model = manifest.load(first, verify="none")
    assert not model.training
    if not whole:
        return  # `make sweep` resumes it
    second = train(f"second-{size}", "--force-quick-gelu", "--resume", str(first), program=program, epochs=2)
    second /= "epoch_2.pt"
    assert manifest.verify(second, fast=True).passed
    assert not second.with_name("epoch_1.pt").exists()
    lineage = read_manifest(second).provenance
    assert [parent.name for parent in lineage.parents] == ["epoch_1.pt"]
    assert lineage.epoch == 2


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "options", "program"),
    [
        ("amp", ["--precision", "amp_bf16"], MODULE),
        ("compiled", ["--torchcompile"], MODULE),
        ("two", [], (*TORCHRUN, str(SCRIPTS / "open_clip_on_cpus.py"))),
    ],
)
def test_so_do_those_of_other_trainings(train: Trainer, name: str, options: list[str], program: Sequence[str]) -> None:
    promised(train(name, *options, program=program) / "epoch_1.pt")


def test_its_epochs_are_kin_and_another_run_is_not(train: Trainer, tmp_path: Path) -> None:
    run = train("kin", "--lr", "1e-3", program=SMALL, epochs=3)
    other = train("stranger", "--lr", "1e-3", "--seed", "1", program=SMALL)
    last, stranger = run / "epoch_3.pt", other / "epoch_1.pt"
    two, one = manifest.relate(last, run / "epoch_2.pt.manifest.json", run / "epoch_1.pt.manifest.json").pairs
    assert {two.relation, one.relation} == {Relation.SAME_START}
    assert 0 < (two.distance or 0) < (one.distance or 0)
    assert manifest.relate(stranger, last).pairs[0].relation is Relation.UNRELATED
    folder = tmp_path / "manifests"
    for each in (*run.glob("epoch_?.pt.manifest.json"), *other.glob("epoch_?.pt.manifest.json")):
        place = folder / each.relative_to(run.parents[1])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(each, place)
    manifest.add_to_index(tmp_path / "kin.index", [folder])
    for against in (folder, tmp_path / "kin.index"):
        found = manifest.relatives(last, against)
        assert [Path(each.other).name.split(" ")[0] for each in found.found] == [
            "epoch_3.pt",
            "epoch_2.pt",
            "epoch_1.pt",
        ]
        assert found.searched == 4
    reason = manifest.audit(last, against=tmp_path / "kin.index").rungs[-1].reason
    assert reason.startswith("the same weights as ")
    assert reason.endswith("; 2 more relatives among 4 sets of weights")

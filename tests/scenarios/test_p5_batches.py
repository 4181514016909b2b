"""P5: a sample's outputs depend on the batch that it comes in: little on a CPU, and by a measure that is on record."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import manifest
from manifest.storage.transaction import read_manifest


@pytest.fixture(scope="module", params=["test_resnet", pytest.param("resnet34", marks=pytest.mark.whole)])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def saved(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("p5") / f"{name}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        manifest.save(timm.create_model(name), path, floor="full")
    return path


def test_floor_on_the_cpu_is_near_the_resolution_of_float32_and_kept_by_cause(saved: Path) -> None:
    (golden,) = read_manifest(saved).golden
    assert golden.batch == 4
    assert {"batch", "halves", "position", "repeat", "threads", "kernels", "instructions"} <= golden.floor.keys()
    assert golden.floor["repeat"] == 0
    assert max(golden.floor.values()) < 1e-5
    assert golden.floor["batch"] < 2e-6


def test_policy_bounds_the_floor(saved: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {required: true, max_floor: 1.0e-5}\n")
    assert manifest.verify(saved, policy=policy).exit_code == 0
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-12}\n")
    report = manifest.verify(saved, policy=policy)
    (found,) = [each for each in report.findings() if each.rule == "G006"]
    assert report.exit_code == 1
    assert "further than 1e-12" in found.message
    assert found.evidence["floor"] == read_manifest(saved).golden[0].floor


def test_floor_of_none_is_not_within_a_bound(name: str, saved: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("schema: policy/v1\ngolden: {max_floor: 1.0e-5}\n")
    copy = tmp_path / saved.name
    copy.hardlink_to(saved)
    manifest.create(copy, name, family="timm", floor="none")
    assert read_manifest(copy).golden[0].floor == {}
    assert manifest.verify(copy).exit_code == 0
    report = manifest.verify(copy, policy=policy)
    assert "nobody measured how far" in next(each for each in report.findings() if each.rule == "G006").message


def test_sample_in_other_company_is_within_the_floor_here(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name).eval()
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together, alone = model(images)[:1], model(images[:1])
    assert float((together - alone).norm() / together.norm()) < 2e-6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: cuDNN's kernels are what differs")
def test_doctor_tries_the_cures_on_a_gpu(saved: Path) -> None:
    names = {rung.name for rung in manifest.doctor(saved).rungs}
    assert {"gpu", "gpu, cuDNN off", "gpu, cuDNN deterministic", "gpu, TF32 off"} <= names

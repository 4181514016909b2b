"""Switches and seeds: set in one call, put back exactly in one, and enough to make runs and data loaders the same."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

import manifest
from manifest.determinism.switches import deterministic
from manifest.errors import InputError
from manifest.fingerprints import environment

pytestmark = pytest.mark.filterwarnings("ignore:PYTHONHASHSEED")


def flags() -> dict[str, Any]:
    raw = {name: owner.fp32_precision for name, owner in environment.precision_owners(torch).items()}
    return {
        **environment.flags(torch),
        **raw,
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
    }


def drawn() -> list[float]:
    """A number from each generator."""
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Every test leaves things as they were."""
    before = flags()
    yield
    assert flags() == before


def test_the_same_seed_draws_the_same_and_the_stream_outside_is_undisturbed() -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = drawn(), drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = drawn()
    with deterministic(seed=7):
        one = drawn()
    with deterministic(seed=7):
        again = drawn()
    with deterministic(seed=8):
        other = drawn()
    assert one == again
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert (first, drawn()) == undisturbed


def test_every_switch_is_set_inside() -> None:
    with deterministic(seed=7):
        inside = environment.flags(torch)
    assert inside["cudnn.deterministic"]
    assert not inside["cudnn.benchmark"]
    assert inside["deterministic_algorithms"]
    assert inside["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert inside["seed"] == 7
    assert {value for name, value in inside.items() if name.endswith("fp32_precision")} == {"ieee"}


@given(
    benchmark=st.booleans(),
    algorithms=st.sampled_from([(False, False), (True, True), (True, False)]),
    workspace=st.sampled_from(["", ":16:8"]),
    conv=st.sampled_from(["ieee", "tf32"]),
    matmul=st.sampled_from(["none", "ieee", "tf32"]),
    tf32=st.booleans(),
    fails=st.booleans(),
)
def test_whatever_was_set_before_is_set_after(
    benchmark: bool,
    algorithms: tuple[bool, bool],
    workspace: str | None,
    conv: str,
    matmul: str,
    tf32: bool,
    fails: bool,
) -> None:
    outer = flags()
    raw = {name: (owner, owner.fp32_precision) for name, owner in environment.precision_owners(torch).items()}
    cudnn: Any = torch.backends.cudnn
    cudnn.benchmark, cudnn.conv.fp32_precision = benchmark, conv
    torch.backends.cuda.matmul.fp32_precision = matmul
    torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
    if workspace:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace
    try:
        before = flags()
        try:
            with deterministic(tf32=tf32):
                if fails:
                    raise KeyError
        except KeyError:
            assert fails
        assert flags() == before
    finally:
        os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
        torch.use_deterministic_algorithms(False)
        cudnn.benchmark = False
        for owner, value in raw.values():
            owner.fp32_precision = value
    assert flags() == outer


def test_as_a_call_it_lasts_until_it_is_undone_once() -> None:
    before = flags()
    settings = manifest.deterministic(seed=3)
    assert torch.are_deterministic_algorithms_enabled()
    with manifest.deterministic(seed=4):
        assert environment.seed() == 4
    assert environment.seed() == 3
    settings.undo()
    assert flags() == before
    torch.use_deterministic_algorithms(True)
    settings.undo()
    assert torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)


def test_what_cannot_run_deterministically_raises_or_warns_as_asked() -> None:
    indices = torch.tensor([0, 0])
    with deterministic(), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(indices, torch.ones(2))
    with deterministic(warn_only=True), pytest.warns(UserWarning, match="deterministic"):
        torch.zeros(3).put_(indices, torch.ones(2))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_that_numpy_cannot_take_is_refused_before_anything_is_set(seed: int) -> None:
    with pytest.raises(InputError, match="expected 0 to 4294967295"):
        deterministic(seed)


@pytest.mark.parametrize(("hashing", "said"), [(None, True), ("random", True), ("0", False)])
def test_hash_seed_that_came_too_late_is_told(hashing: str | None, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    if hashing is not None:
        monkeypatch.setenv("PYTHONHASHSEED", hashing)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with manifest.deterministic(1) as settings:
            assert ("PYTHONHASHSEED" in str(settings.notes)) is said
    assert any("PYTHONHASHSEED=0 python" in str(each.message) for each in warned) is said


class Noisy(Dataset[torch.Tensor]):
    """Samples that draw from all three generators."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, *drawn()], dtype=torch.float64)


def epoch(**settings: Any) -> torch.Tensor:
    return torch.cat(list(DataLoader(Noisy(), batch_size=3, shuffle=True, num_workers=2, **settings)))


def test_workers_of_a_data_loader_draw_the_same_in_every_run() -> None:
    def run() -> torch.Tensor:
        return epoch(worker_init_fn=manifest.seed_worker, generator=manifest.dataloader_generator(5))

    first = run()
    np.random.seed(99), torch.manual_seed(99)
    assert torch.equal(first, run())
    np.random.seed(99), torch.manual_seed(98)
    without = epoch()
    np.random.seed(99), torch.manual_seed(99)
    assert not torch.equal(without, epoch())


def test_generator_of_a_data_loader_goes_by_the_seed_in_force() -> None:
    with deterministic(seed=11):
        inside = manifest.dataloader_generator()
    assert inside.initial_seed() == 11
    assert manifest.dataloader_generator().initial_seed() == 0
    assert manifest.dataloader_generator(4).initial_seed() == 4


def test_manifest_records_the_seed_and_switches_set_by_their_newer_names(digits_model: Any, tmp_path: Any) -> None:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"  # after this, torch raises where its older names are read
    try:
        recorded = manifest.save(digits_model, tmp_path / "a.safetensors", golden=False)
        assert recorded.environment.flags["cuda.matmul.fp32_precision"] == "tf32"
        with warnings.catch_warnings(), deterministic(seed=21):
            recorded = manifest.save(digits_model, tmp_path / "b.safetensors", golden=False)
    finally:
        matmul.fp32_precision = before
    assert recorded.environment.flags["seed"] == 21
    assert recorded.environment.flags["cuda.matmul.fp32_precision"] == "ieee"
    report = manifest.verify(tmp_path / "b.safetensors")
    rung = next(rung for rung in report.rungs if rung.name == "environment")
    assert "deterministic_algorithms was True and is False" in rung.findings[0].message
    assert report.exit_code == 0

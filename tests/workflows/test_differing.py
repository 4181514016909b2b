"""`manifest diff`: with manifests, without, of a manifest alone; how far weights moved, and what was renamed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.schema.report import Report
from manifest.weights.distance import Moved, moved
from tests.large import sparse_file


@pytest.fixture
def place(tmp_path: Path, digits: ModuleType) -> Path:
    """A folder with `a.safetensors` and its manifest, and the same bytes without one as `bare.safetensors`."""
    model = manifest.load(digits.WEIGHTS, verify="none")
    manifest.save(model, tmp_path / "a.safetensors", golden=False)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "bare.safetensors")
    return tmp_path


def trained_on(place: Path) -> Path:
    """The same with the vision tower moved by a hundredth, and the text tower begun anew."""
    state = load_file(place / "a.safetensors")
    torch.manual_seed(0)
    for name, value in state.items():
        if name.startswith("visual.transformer"):
            value += 0.01 * value.norm() / value.numel() ** 0.5 * torch.randn_like(value)
    save_file(state, place / "b.safetensors")
    return place / "b.safetensors"


def outcomes(report: Report) -> dict[str, str]:
    return {rung.name: str(rung.outcome) for rung in report.rungs}


def test_files_without_manifests_are_compared(place: Path) -> None:
    same = manifest.diff(place / "a.safetensors", place / "bare.safetensors")
    assert outcomes(same) == {"integrity": "pass", "weights": "pass", "architecture": "skip"}
    report = manifest.diff(place / "bare.safetensors", trained_on(place))
    assert outcomes(report) == {"integrity": "skip", "weights": "fail", "architecture": "skip"}
    (found,) = report.findings()
    assert found.evidence["moved"] == pytest.approx(0.01, rel=0.2)
    assert found.evidence["most"].startswith("visual.transformer.")
    assert "moved by 9.8e-03 (relative L2), most visual.transformer.resblocks." in found.message


def test_components_are_those_of_the_side_that_has_a_manifest(place: Path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        trained_on(place)
        report = manifest.diff(place / f"{one}.safetensors", place / f"{other}.safetensors")
        (found,) = report.findings()
        assert found.where == "vision_tower"
        assert "In the vision tower, " in found.message


def test_manifest_alone_says_which_tensors_differ_and_about_how_far(place: Path) -> None:
    other = trained_on(place)
    alone = shutil.copy(place / "a.safetensors.manifest.json", place / "kept.manifest.json")
    report = manifest.diff(alone, other)
    (found,) = report.findings()
    assert found.where == "vision_tower"
    measured = next(manifest.diff(place / "a.safetensors", other).findings()).evidence["moved"]
    assert found.evidence["moved"] == pytest.approx(measured, rel=4 * found.evidence["error"])
    assert ", estimated from sketches to " in found.message
    same = manifest.diff(alone, place / "a.safetensors.manifest.json")
    assert outcomes(same) == {"integrity": "skip", "weights": "pass", "architecture": "pass"}
    with pytest.raises(manifest.NoManifestError, match=r"kept\.manifest\.json has no file or no manifest beside it"):
        manifest.diff(alone, other, outputs=True)


def test_renamed_tensors_are_told_from_others(place: Path) -> None:
    state = load_file(place / "a.safetensors")
    state["visual.head.weight"] = state.pop("visual.proj")
    state["more"] = torch.ones(3)
    del state["text_projection"]
    save_file(state, place / "b.safetensors")
    report = manifest.diff(place / "a.safetensors", place / "b.safetensors")
    assert [found.message for found in report.findings()] == [
        "1 tensors have other names: visual.proj → visual.head.weight.",
        "Only in a.safetensors: text_projection.",
        "Only in b.safetensors: more.",
    ]
    assert report.rungs[1].reason == "0 of 84 tensors differ, 1 gone, 1 added, 1 renamed"


def test_component_that_is_begun_anew_is_told(place: Path) -> None:
    model = manifest.load(place / "a.safetensors", verify="none")
    for module in model.transformer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    fresh = manifest.create_model("digits-clip").state_dict()
    model.load_state_dict(
        {name: fresh[name] if _of_text(name) else value for name, value in model.state_dict().items()}
    )
    manifest.save(model, place / "b.safetensors", golden=False, partial=["text_tower", "text_projection"])
    report = manifest.diff(place / "a.safetensors", place / "b.safetensors")
    (text,) = (found for found in report.findings() if found.where == "text_tower")
    assert text.message.endswith("; it was trained in the first and is initialised anew in the second.")


def _of_text(name: str) -> bool:
    return name.startswith(("transformer.", "token_embedding", "positional_embedding", "ln_final"))


@pytest.mark.parametrize("types", [("float32", "float32"), ("float32", "bfloat16"), ("float16", "float64")])
def test_distance_is_that_of_the_values_whatever_holds_them(types: tuple[str, str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    values = [torch.randn(700, 1000), torch.randn(700, 1000)]
    stored = [value.to(getattr(torch, kind)) for value, kind in zip(values, types, strict=True)]
    save_file({"x": stored[0]}, tmp_path / "a.safetensors")
    torch.save({"x": stored[1].t().contiguous().t()}, tmp_path / "b.pt")
    with open_checkpoint(tmp_path / "a.safetensors") as one, open_checkpoint(tmp_path / "b.pt") as other:
        found = moved(one, one.tensors["x"], other, other.tensors["x"])
    before, after = (value.double().numpy() for value in stored)
    assert found is not None
    assert found.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before), rel=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(1e-3, 1e9)), min_size=1, max_size=5))
def test_distance_of_several_is_that_of_them_as_one(parts: list[tuple[float, float]]) -> None:
    together = Moved.together([Moved(*part) for part in parts])
    squares, norm = (sum(each) for each in zip(*parts, strict=True))
    assert together.relative == pytest.approx((squares / norm) ** 0.5)


def test_distance_says_nothing_of_other_shapes_and_of_whole_numbers(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3), "n": torch.ones(3, dtype=torch.int64)}, tmp_path / "a.safetensors")
    save_file({"x": torch.ones(4), "n": torch.zeros(3, dtype=torch.int64)}, tmp_path / "b.safetensors")
    report = manifest.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    (found,) = report.findings()
    assert "moved" not in found.message


def test_large_files_are_compared_in_bounded_memory(tmp_path: Path) -> None:
    import resource

    one = sparse_file(tmp_path / "a.safetensors", 2 << 30)
    other = sparse_file(tmp_path / "b.safetensors", 2 << 30)
    with other.open("r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(1).tobytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = manifest.diff(one, other)
    assert report.exit_code == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB; the files have 4 GiB


def test_manifest_alone_without_sketches_says_not_how_far(place: Path) -> None:
    model = manifest.load(place / "a.safetensors", verify="none")
    manifest.save(model, place / "c.safetensors", golden=False, kinship=False)
    (found,) = manifest.diff(place / "c.safetensors.manifest.json", trained_on(place)).findings()
    assert "moved" not in found.message

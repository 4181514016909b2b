"""`manifest relate` on real checkpoints: components, lineage, mixes by component, what is printed and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import manifest
from manifest.kinship.answers import Relation, State
from manifest.storage.sidecars import Sidecars


@pytest.fixture
def place(tmp_path: Path, digits_model: nn.Module) -> Path:
    """A folder with `a.pt` and its manifest."""
    manifest.save(digits_model, tmp_path / "a.pt", golden=False)
    return tmp_path


def moved(place: Path, name: str, seed: int, towers: str = "visual transformer", size: float = 0.01) -> nn.Module:
    """`a.pt` with some towers moved, saved by another name; it is loaded by its manifest, and so names its parent."""
    model = manifest.load(place / "a.pt")
    torch.manual_seed(seed)
    with torch.no_grad():
        for each, weight in model.named_parameters():
            if each.startswith(tuple(towers.split())):
                weight += size * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0
    manifest.save(model, place / name, golden=False)
    return model


def kept(place: Path, name: str) -> Path:
    """The manifest of a checkpoint, somewhere else and without the file."""
    return Path(shutil.copy(Sidecars(place / name).manifest, place / f"kept-{name}.manifest.json"))


def test_components_say_where_weights_moved_and_what_was_frozen(place: Path) -> None:
    moved(place, "b.pt", 1, "visual")
    for one, other in ((place / "b.pt", place / "a.pt"), (kept(place, "b.pt"), kept(place, "a.pt"))):
        (pair,) = manifest.relate(one, other).pairs
        assert pair.relation is Relation.SAME_START
        assert f"{pair.one} was trained from {pair.other}, as its manifest records" in pair.sentence
        states = {part.role: part.state for part in pair.parts}
        assert states["vision_tower"] is State.MOVED
        assert states["text_tower"] is states["text_projection"] is State.SAME
        (tower,) = (part for part in pair.parts if part.role == "vision_tower")
        assert tower.distance == pytest.approx(0.01, rel=0.35)
        assert "untouched: " in pair.sentence
        assert "text tower" in pair.sentence


def test_distance_is_that_of_the_files_within_its_error(place: Path) -> None:
    moved(place, "b.pt", 1)
    (pair,) = manifest.relate(kept(place, "b.pt"), kept(place, "a.pt")).pairs
    one, other = (manifest.load(place / name).state_dict() for name in ("b.pt", "a.pt"))
    squares = sum(float((one[name] - other[name]).double().square().sum()) for name in one)
    true = (squares / sum(float(each.double().square().sum()) for each in other.values())) ** 0.5
    assert pair.error is not None
    assert pair.error < 0.05
    assert pair.distance == pytest.approx(true, rel=4 * pair.error)


def test_component_that_was_begun_anew_is_named(place: Path) -> None:
    fresh = manifest.create_model("digits-clip").state_dict()
    model = manifest.load(place / "a.pt")
    model.load_state_dict(
        {name: fresh[name] if name.startswith("visual.") else each for name, each in model.state_dict().items()}
    )
    manifest.save(model, place / "b.pt", golden=False, partial=["vision_tower", "vision_projection"])
    (pair,) = manifest.relate(kept(place, "b.pt"), kept(place, "a.pt")).pairs
    assert pair.relation is Relation.SAME_START
    assert "begun anew, or from elsewhere: vision tower" in pair.sentence
    assert next(part for part in pair.parts if part.role == "text_tower").state is State.SAME


def test_mix_by_component_has_the_coefficients_of_each(place: Path) -> None:
    one, other = moved(place, "b.pt", 1).state_dict(), moved(place, "c.pt", 2).state_dict()
    model = manifest.load(place / "a.pt")
    model.load_state_dict(
        {name: 0.25 * each + 0.75 * other[name] if name.startswith("visual.") else each for name, each in one.items()}
    )
    manifest.save(model, place / "d.pt", golden=False)
    mix = manifest.relate(kept(place, "d.pt"), place / "b.pt", kept(place, "c.pt")).mix
    assert mix is not None
    vision, text = (list(mix.by_component[role].values()) for role in ("vision_tower", "text_tower"))
    assert vision == pytest.approx([0.25, 0.75], abs=1e-4)
    assert text == [1, 0]
    assert "text tower: b.pt" in mix.sentence


def test_task_vector_is_a_sum_whose_coefficients_sum_to_zero(place: Path) -> None:
    moved(place, "b.pt", 1)
    one, other = (manifest.load(place / name).state_dict() for name in ("b.pt", "a.pt"))
    save_file({name: one[name] - other[name] for name in one}, place / "vector.safetensors")
    mix = manifest.relate(place / "vector.safetensors", place / "b.pt", place / "a.pt").mix
    assert mix is not None
    assert (mix.made, mix.relation) == ("vector.safetensors", Relation.COMBINED)
    assert list(mix.coefficients.values()) == pytest.approx([1, -1], abs=1e-4)


def test_of_three_on_a_line_the_one_between_is_the_mix_and_the_other_reading_is_told(place: Path) -> None:
    moved(place, "b.pt", 1)
    one, other = (manifest.load(place / name).state_dict() for name in ("b.pt", "a.pt"))
    save_file({name: 1.5 * other[name] - 0.5 * one[name] for name in one}, place / "less.safetensors")
    mix = manifest.relate(place / "less.safetensors", place / "a.pt", place / "b.pt").mix
    assert mix is not None
    assert mix.made == "a.pt"
    assert "a.pt is a weighted average: 0.6667·less.safetensors + 0.3333·b.pt. So, " in mix.sentence
    assert "less.safetensors is what task arithmetic makes: 1.5·a.pt - 0.5·b.pt" in mix.sentence


def test_weights_near_a_mix_are_none(place: Path) -> None:
    one, other = moved(place, "b.pt", 1).state_dict(), moved(place, "c.pt", 2).state_dict()
    torch.manual_seed(3)
    near = {name: (one[name] + other[name]) / 2 + 1e-4 * torch.randn_like(one[name]) for name in one}
    save_file(near, place / "near.safetensors")
    assert manifest.relate(place / "near.safetensors", place / "b.pt", place / "c.pt").mix is None


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_container_and_wrapper_do_not_matter(ending: str, place: Path) -> None:
    state = {f"module.{name}": each for name, each in manifest.load(place / "a.pt").state_dict().items()}
    if ending == "pt":
        torch.save({"state_dict": state, "epoch": 3}, place / "b.pt")
    else:
        save_file(state, place / "b.safetensors")
    (pair,) = manifest.relate(place / f"b.{ending}", kept(place, "a.pt")).pairs
    assert (pair.relation, pair.distance) == (Relation.IDENTICAL, 0)


def test_part_of_a_model_is_the_same_where_both_have_it(place: Path) -> None:
    state = manifest.load(place / "a.pt").state_dict()
    save_file({name: each for name, each in state.items() if not name.startswith("visual.")}, place / "b.safetensors")
    (pair,) = manifest.relate(place / "b.safetensors", place / "a.pt").pairs
    assert pair.relation is Relation.IDENTICAL
    assert pair.sentence == "The same weights in all tensors that both have."
    assert [note.partition(" has ")[0] for note in pair.notes] == ["Only a.pt"]


def test_manifest_that_describes_other_weights_gives_no_names_and_no_parents(place: Path) -> None:
    moved(place, "b.pt", 1)
    stranger = {name: torch.randn_like(each) for name, each in manifest.load(place / "b.pt").state_dict().items()}
    torch.save(stranger, place / "b.pt")
    (pair,) = manifest.relate(place / "b.pt", place / "a.pt").pairs
    assert pair.relation is Relation.UNRELATED


def test_command_prints_answers_and_ends_with_their_code(
    place: Path, digits: ModuleType, run: Callable[..., Any]
) -> None:
    moved(place, "b.pt", 1, "visual")
    answer = run("relate", "b.pt", "a.pt.manifest.json")
    assert answer.code == 0
    assert "✔ b.pt and a.pt.manifest.json  same-start" in answer.out
    assert "vision tower" in answer.out
    assert "untouched" in answer.out
    assert "refuted by" in answer.out
    torch.manual_seed(0)
    strange = {name: torch.randn_like(each) for name, each in load_file(digits.WEIGHTS).items()}
    save_file(strange, place / "strange.safetensors")
    answer = run("relate", "a.pt", "b.pt", "strange.safetensors", "--format", "json")
    assert answer.code == 1
    found = json.loads(answer.out)
    assert found["schema"] == "kinship/v1"
    assert [pair["relation"] for pair in found["pairs"]] == ["same-start", "unrelated"]
    save_file({"x": torch.ones(3, 3)}, place / "other.safetensors")
    answer = run("relate", "a.pt", "other.safetensors")
    assert answer.code == 2
    assert "They have no tensor of one name and shape in common" in answer.out


def test_names_out_of_files_reach_a_terminal_escaped(tmp_path: Path, run: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    state = {f"a\x1b[31m{place}.weight": torch.randn(64, 64) for place in range(8)}
    save_file(state, tmp_path / "a.safetensors")
    save_file(
        {**state, "b\x1b[0m": torch.ones(3)} | {"a\x1b[31m0.weight": torch.randn(64, 64)},
        tmp_path / "b\x1b.safetensors",
    )
    answer = run("relate", "a.safetensors", "b\x1b.safetensors")
    assert "\x1b" not in answer.out
    assert "b\\x1b.safetensors" in answer.out
    assert "\x1b" not in run("relate", "a.safetensors", "b\x1b.safetensors", "--format", "json").out


def test_what_cannot_be_compared_is_one_sentence(place: Path, run: Callable[..., Any]) -> None:
    model = manifest.load(place / "a.pt")
    manifest.save(model, place / "bare.pt", golden=False, kinship=False)
    said = run("relate", "a.pt", "bare.pt.manifest.json").complaint
    assert said == (
        "bare.pt.manifest.json has no sketches of the weights that this version reads; name the checkpoint itself, "
        "or describe it anew with `manifest create`."
    )
    assert run("relate", "a.pt", "bare.pt").code == 0
    assert "0 checkpoints are to be compared with, expected 1 to 63" in run("relate", "a.pt").complaint
    assert "There is no file nowhere.pt" in run("relate", "a.pt", "nowhere.pt").complaint
    (place / "no.manifest.json").write_text("{}")
    assert "no.manifest.json has no field" in run("relate", "a.pt", "no.manifest.json").complaint


def test_relating_takes_no_torch(place: Path, run_process: Callable[..., Any]) -> None:
    (place / "torch.py").write_text("raise SystemExit('torch was imported')")
    answer = run_process(
        "relate", "a.pt", "a.pt.manifest.json", PYTHONPATH=f"{place}:{Path(manifest.__file__).parents[1]}"
    )
    assert answer.code == 0, answer


def _stack(seed: int) -> dict[str, torch.Tensor]:
    """Matrices of one size without biases, as language models have them."""
    torch.manual_seed(seed)
    return {f"layers.{place}.weight": 0.02 * torch.randn(512, 512) for place in range(6)}


@pytest.mark.parametrize("rate", [1e-7, 1e-6, 1e-5, 2e-5, 3e-5, 4e-5, 1e-4])
def test_one_step_of_adam_is_no_copy_and_no_order_of_units(rate: float, tmp_path: Path) -> None:
    start = _stack(0)
    weights = {name: nn.Parameter(each.clone()) for name, each in start.items()}
    for each in weights.values():
        each.grad = torch.randn_like(each)
    torch.optim.AdamW(weights.values(), lr=rate, weight_decay=0).step()
    save_file(start, tmp_path / "start.safetensors")
    save_file({name: each.detach() for name, each in weights.items()}, tmp_path / "next.safetensors")
    (pair,) = manifest.relate(tmp_path / "next.safetensors", tmp_path / "start.safetensors").pairs
    assert pair.relation is Relation.SAME_START, pair.sentence


def test_copy_of_what_has_few_digits_is_told_by_files(tmp_path: Path) -> None:
    start = {
        name: torch.where(torch.rand_like(each) < 0.9, each.bfloat16().float(), each)
        for name, each in _stack(0).items()
    }
    save_file(start, tmp_path / "start.safetensors")
    save_file({name: each.bfloat16() for name, each in start.items()}, tmp_path / "copy.safetensors")
    (pair,) = manifest.relate(tmp_path / "copy.safetensors", tmp_path / "start.safetensors").pairs
    assert pair.relation is Relation.ROUNDED

"""What a model says as it is run, held to the record: here or from a file, in other precisions, with bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, DocumentError, InputError
from manifest.storage.transaction import read_manifest


@pytest.fixture(scope="module")
def saved(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparing") / "digits.safetensors"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path, precisions=["bf16"])
    return path


def golden_of(report: Any) -> Any:
    return next(rung for rung in report.rungs if rung.name == "golden")


def test_the_model_that_was_saved_says_exactly_what_is_on_record(saved: Path, digits_model: Any) -> None:
    assert golden_of(manifest.compare(digits_model, saved)).reason.startswith("exact")


def test_asking_disturbs_nothing(saved: Path) -> None:
    model: Any = manifest.load(saved)
    model.train()
    model.visual.bn = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    manifest.answer(model, saved)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(child.training for child in model.modules())
    assert torch.is_grad_enabled()


def test_answers_travel_as_a_small_file(saved: Path, digits_model: Any, tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(manifest.answer(digits_model, saved).model_dump_json())
    assert answers.stat().st_size < 64 << 10
    assert golden_of(manifest.compare(answers, saved)).reason.startswith("exact")


def test_goldens_of_another_precision_are_records_of_their_own(saved: Path) -> None:
    fp32, bf16 = read_manifest(saved).golden
    assert (fp32.precision, bf16.precision) == ("fp32", "bf16")
    assert max(bf16.floor.values()) > 100 * max(fp32.floor.values())
    assert manifest.verify(saved).exit_code == 0
    model = manifest.load(saved).to(torch.bfloat16)
    assert manifest.compare(model, saved).exit_code == 0


def test_model_in_lower_precision_when_explained_then_it_passes_only_where_asked(saved: Path) -> None:
    half = manifest.load(saved).to(torch.float16)
    report = manifest.compare(half, saved)
    (found,) = golden_of(report).findings
    assert (report.exit_code, found.rule) == (2, "G007")
    assert "of a model in fp16, and those on record in fp32" in found.message
    assert manifest.compare(manifest.answer(half, saved), saved).exit_code == 2
    assert manifest.compare(half, saved, across_precisions=True).exit_code == 0


@pytest.mark.parametrize("across", [True, False])
def test_model_in_lower_precision_when_more_than_that_differs_then_it_is_different(saved: Path, across: bool) -> None:
    wrong: Any = manifest.load(saved)
    wrong.visual.proj.data[:, 3] = 0
    report = manifest.compare(wrong.to(torch.float16), saved, across_precisions=across)
    (found,) = golden_of(report).findings
    assert (report.exit_code, found.rule) == (1, "G001")
    assert "Its precision, fp16 instead of fp32, is among what arithmetic explains." in found.message


def test_model_in_higher_precision_then_it_is_compared(saved: Path) -> None:
    assert manifest.compare(manifest.load(saved).double(), saved).exit_code == 0


@pytest.mark.parametrize("precision", ["amp_int3", "fp8", "\x1b[2J"])
def test_answers_in_a_precision_that_nobody_has_then_nothing_is_told(
    precision: str, saved: Path, digits_model: Any
) -> None:
    answers = manifest.answer(digits_model, saved).model_copy(update={"precision": precision})
    report = manifest.compare(answers, saved)
    assert [found.rule for found in report.findings()] == ["G007"]
    assert "\x1b" not in next(report.findings()).message
    with pytest.raises(InputError):
        manifest.compare(answers, saved, across_precisions=True)


def test_model_under_autocast_is_of_that_precision(saved: Path, digits_model: Any) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = manifest.answer(digits_model, saved)
    assert answers.precision == "amp_bf16"
    report = manifest.compare(answers, saved, across_precisions=True)
    assert [item.rule for item in report.findings()] == ["G007"]  # bf16 moves it as far as a wrong activation
    assert report.exit_code == 2


def test_other_weights_in_the_same_file_are_recognised(digits: Any, tmp_path: Path) -> None:
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    average = {name: value * 0.98 if "mlp" in name else value for name, value in model.state_dict().items()}
    path = tmp_path / "both.pt"
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": average}, path)
    manifest.create(path, digits.MODEL)
    model.load_state_dict(average)
    (found,) = golden_of(manifest.compare(model, path)).findings
    assert "with state_dict_ema instead of state_dict (weights)" in found.message
    assert "model.load_state_dict(torch.load(CKPT)['state_dict'])" in found.remedy


def test_answer_that_is_not_finite_or_a_model_that_raises_is_one_sentence(saved: Path) -> None:
    model: Any = manifest.load(saved)
    model.ln_final.weight.data[0] = float("nan")
    with pytest.raises(ArchitectureError, match="NaN or infinity"):
        manifest.answer(model, saved)
    model.encode_image = lambda *_, **__: 1 / 0
    with pytest.raises(ArchitectureError, match=r"fails on the probe .*ZeroDivisionError"):
        manifest.answer(model, saved)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON in UTF-8"),
        ("[]", "an object was expected"),
        ("{}", "not valid at 'probe'"),
        ('{"probe": NaN}', "has NaN, which is not JSON"),
        ("[" * 100_000, "nests deeper"),
    ],
)
def test_file_that_holds_no_answers_is_refused(saved: Path, tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "answers.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=expected):
        manifest.compare(path, saved)


def test_answers_to_another_probe_are_refused(saved: Path, digits_model: Any) -> None:
    answers = manifest.answer(digits_model, saved).model_copy(update={"probe": "photos/1"})
    with pytest.raises(InputError, match=r"to the probe photos/1, expected photos-and-prompts/2"):
        manifest.compare(answers, saved)


def write_reading(path: Path, readings: list[Any]) -> Path:
    path.write_text(json.dumps(readings))
    return path


def published(saved: Path, digits: int = 4) -> list[dict[str, Any]]:
    """What the manifest reads off the photographs, as a model card would have it."""
    return [
        {"image": reading.image, "prompts": {prompt: round(p, digits) for prompt, p in reading.prompts.items()}}
        for reading in read_manifest(saved).golden[0].reading
    ]


def test_reading_that_is_the_checkpoints_own_agrees(saved: Path, tmp_path: Path) -> None:
    for digits in (4, 2):
        report = manifest.diagnose(saved, write_reading(tmp_path / "r.json", published(saved, digits)))
        assert report.exit_code == 0
        assert "the reading is that of the checkpoint" in report.rungs[0].reason


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("gelu", "GELU instead of QuickGELU"), ("resize", "squash instead of shortest"), ("scale", "logit_scale itself")],
)
def test_reading_made_with_a_fault_is_explained(saved: Path, tmp_path: Path, fault: str, cause: str) -> None:
    model: Any = manifest.load(saved)
    preprocess = manifest.load_transforms(saved).preprocess
    prepare = preprocess
    if fault == "gelu":
        for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
            block.mlp.gelu = nn.GELU()
    elif fault == "resize":
        prepare = lambda image: preprocess(image.resize((32, 32), 3))  # noqa: E731
    else:
        model.logit_scale.data = model.logit_scale.data.log()
    readings = manifest.answer(model, saved, preprocess=prepare).reading
    file = write_reading(tmp_path / "r.json", [reading.model_dump() for reading in readings])
    (found,) = manifest.diagnose(saved, file).findings()
    assert cause in found.message


def test_reading_that_nothing_explains_says_so(saved: Path, tmp_path: Path) -> None:
    made_up = published(saved)
    made_up[0]["prompts"] = dict.fromkeys(made_up[0]["prompts"], 0.125)
    (found,) = manifest.diagnose(saved, write_reading(tmp_path / "r.json", made_up)).findings()
    assert "hypotheses explains it" in found.message
    assert found.evidence["hypotheses"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "is no reading"),
        ("[]", "no probabilities"),
        ('[{"image": "chelsea"}]', "is no reading"),
        ('[{"image": "chelsea", "prompts": {"a": 2}}]', "expected 0 to 1"),
        ('[{"image": "chelsea", "prompts": {"a": NaN}}]', "is no reading|expected 0 to 1"),
        ('[{"image": "chelsea", "prompts": {"a": 1}}, {"image": "coffee", "prompts": {"b": 1}}]', "different prompts"),
        ('[{"image": "none.png", "prompts": {"a": 1}}]', "none.png cannot be read"),
    ],
)
def test_reading_of_another_form_is_one_sentence(saved: Path, tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(content)
    with pytest.raises(InputError, match=expected):
        manifest.diagnose(saved, file)

"""`manifest diff`, `doctor` and `diagnose`, and what `verify` and `create` learned of probes, floors and policies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image
from torch.nn import functional

import manifest
from manifest.storage.transaction import read_manifest

Run = Callable[..., Any]

LAUGHS = "a: &a [ha]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghijkl")
)
"""YAML of a few lines that stands for nine to the eleventh words."""


@pytest.fixture
def other(signed: Path, tmp_path: Path) -> Path:
    """The same model with one weight moved."""
    model: Any = manifest.load(signed, verify="none")
    model.visual.transformer.resblocks[2].mlp.c_fc.weight.data[2, 3] += 0.1
    manifest.save(model, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_diff_names_the_tensor_and_the_layer(signed: Path, other: Path, run: Run) -> None:
    assert run("diff", signed.name, "ckpt.safetensors").code == 0
    answer = run("diff", signed.name, other.name)
    assert answer.code == 1
    assert "✘ ckpt.pt → other.pt differ: weights" in answer.out
    assert "visual.transformer.resblocks.2.mlp.c_fc.weight" in answer.out
    layers = run("diff", signed.name, other.name, "--outputs")
    assert layers.code == 1
    assert "Outputs differ, from visual.transformer.resblocks.2 on, by" in layers.out
    assert "which is no checkpoint" in run("diff", signed.name, "release.pub").complaint


def test_diff_of_weights_needs_no_torch(signed: Path, other: Path) -> None:
    code = (
        "import sys; from manifest.workflows.differing import diff\n"
        f"assert diff({str(signed)!r}, {str(other)!r}).exit_code == 1\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_doctor_of_a_checkpoint_finds_it_sound(signed: Path, run: Run) -> None:
    answer = run("doctor", signed.name)
    assert answer.code == 0
    assert "✔ ckpt.pt gives the same answers again" in answer.out
    assert "a fresh process with another hash seed: " in answer.out
    assert "not the cause: QuickGELU" in answer.out


def test_doctor_of_a_named_model_in_train_mode_says_what_to_do(run: Run) -> None:
    arguments = ("--family", "timm", "--model", "test_resnet", "--argument", "drop_rate=0.5")
    answer = run("doctor", *arguments, "--train", "--format", "json")
    report = json.loads(answer.out)
    assert answer.code == 1
    jsonschema.validate(report, json.loads(run("schema", "report").out))
    assert report["kind"] == "doctor"
    rungs = {rung["name"]: rung for rung in report["rungs"]}
    (found,) = rungs["repeat"]["findings"]
    assert found["rule"] == "D005"
    assert found["remedy"] == "model.eval()"
    assert "BatchNorm" in rungs["modes"]["findings"][0]["message"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "One of CKPT and --model is expected"),
        (("ckpt.pt", "--model", "RN50"), "One of CKPT and --model is expected"),
        (("--model", "RN51"), "RN51"),
        (("--model", "RN50", "--family", "keras"), "keras"),
        (("absent.pt",), "no file absent.pt"),
    ],
)
def test_doctor_without_a_patient_is_one_sentence(arguments: tuple[str, ...], expected: str, run: Run) -> None:
    assert expected in run("doctor", *arguments).complaint


def test_reading_of_the_wrong_activation_is_explained_with_its_cure(signed: Path, run: Run, tmp_path: Path) -> None:
    model: Any = manifest.load(signed, verify="none")
    for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
        block.mlp.gelu.forward = functional.gelu
    readings = manifest.answer(model, signed).reading
    published = [
        {"image": each.image, "prompts": {prompt: round(value, 4) for prompt, value in each.prompts.items()}}
        for each in readings
    ]
    (tmp_path / "card.json").write_text(json.dumps(published))
    answer = run("diagnose", signed.name, "--reading", "card.json")
    assert answer.code == 1
    assert "GELU instead of QuickGELU" in answer.out
    assert "force_quick_gelu" in answer.out
    (tmp_path / "answers.json").write_text(manifest.answer(model, signed).model_dump_json())
    assert "GELU instead of QuickGELU" in run("diagnose", signed.name, "--answers", "answers.json").out


def test_diagnose_wants_one_of_its_files(signed: Path, run: Run, tmp_path: Path) -> None:
    assert "One of --reading and --answers" in run("diagnose", signed.name).complaint
    (tmp_path / "evil.json").write_text(json.dumps([{"image": "\x1b[2Jx\r\n.png", "prompts": {"a": 0.5}}]))
    complaint = run("diagnose", signed.name, "--reading", "evil.json").complaint
    assert "\x1b" not in complaint


def test_probe_of_ones_own_and_a_thorough_floor_are_recorded(
    digits: Any, signed: Path, run: Run, tmp_path: Path
) -> None:
    probe = tmp_path / "street"
    probe.mkdir()
    Image.linear_gradient("L").convert("RGB").save(probe / "sky.png")
    (probe / "prompts.txt").write_text("a street\na sky\n")
    config = digits.HERE / "digits-clip.json"
    (tmp_path / "ckpt.safetensors.manifest.json").unlink()
    (tmp_path / "ckpt.safetensors.manifest.sig").unlink()
    options = ("--model", digits.MODEL, "--model-config", config, "--probe", probe.name, "--floor", "full")
    assert run("create", "ckpt.safetensors", *options).code == 0
    standard, own = read_manifest(tmp_path / "ckpt.safetensors").golden
    assert {"repeat", "batch", "position", "threads", "kernels", "attention", "instructions"} <= standard.floor.keys()
    assert own.probe == "user/street"
    assert run("verify", "ckpt.safetensors", "--probe", probe.name).code == 0
    assert "'street', which was not given" in run("verify", "ckpt.safetensors").out
    assert "expected 'quick', 'full' or 'none'" in run("create", signed.name, *options[:4], "--floor", "deep").complaint


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "policy.yaml is not valid"),
        ("schema: policy/v2\n", "'schema'"),
        ("schema: policy/v1\ngolden: {max_flor: 1}\n", "'golden.max_flor'"),
        ("schema: policy/v1\ngolden: {max_floor: -1}\n", "'golden.max_floor'"),
        ("a: [", "not valid YAML"),
        ("!!python/object/apply:os.system ['touch owned']", "not valid YAML"),
        ("[" * 100_000, "policy.yaml"),
        (LAUGHS, "policy.yaml"),
        ("\x00", "not valid YAML"),
        ("# " + "x" * (1 << 20), "larger than"),
    ],
)
def test_policy_that_is_none_is_one_sentence(
    content: str, expected: str, signed: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(content)
    assert expected in run("verify", signed.name, "--policy", "policy.yaml").complaint
    assert not (tmp_path / "owned").exists()


def test_policy_that_demands_less_movement_fails_the_release(signed: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("schema: policy/v1\ngolden:\n  required: true\n  max_floor: 1.0e-5\n")
    assert run("verify", signed.name, "--policy", "policy.yaml").code == 0
    (tmp_path / "policy.yaml").write_text("schema: policy/v1\ngolden:\n  max_floor: 1.0e-12\n")
    answer = run("verify", signed.name, "--policy", "policy.yaml")
    assert answer.code == 1
    assert "G006" in answer.out

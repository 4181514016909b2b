"""Faults injected into real models in another process, on other threads: each is graded, and diagnosed where it can be.

And the reverse: the same models on other arithmetic are never accused. `pytest -s tests/faults` prints the tables.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import IMAGE_FAULTS, MODEL_FAULTS, TOKEN_FAULTS

import manifest
from manifest.schema.document import Golden
from manifest.schema.report import Outcome, Report
from tests.warm import warm_run

ANSWERING = Path(__file__).with_name("answering.py")
EXPECTED = {
    "quick gelu": ("activation", "QuickGELU"),
    "gelu": ("activation", "GELU"),
    "gelu tanh": ("activation", "GELU tanh"),
    "relu": ("activation", "ReLU"),
    "silu": ("activation", "SiLU"),
    "bf16 rounded": ("precision", "weights rounded to bf16"),
    "fp16 rounded": ("precision", "weights rounded to fp16"),
    "bf16 autocast": ("precision", "bf16 autocast"),
    "tf32": ("precision", "TF32 products"),
    "eps 1e-3": ("norm eps", "0.001"),
    "heads": ("attention heads", ""),
    "pooling": ("pooling", "avg"),
    "normalised": ("features", "normalised"),
    "logit scale": ("logits", "times logit_scale itself"),
    "mean and std": ("preprocessing: mean and std", "ImageNet's"),
    "not normalised": ("preprocessing: mean and std", "none"),
    "interpolation": ("preprocessing: interpolation", "bilinear"),
    "squashed": ("preprocessing: resize mode", "squash"),
    "size": ("preprocessing: size", "short side resized to"),
    "channel order": ("preprocessing: channel order", "BGR"),
    "not over 255": ("preprocessing: range", "pixels of 0 to 255"),
    "short context": ("context length", "8"),
    "no start token": ("tokenizer", "no start token"),
}
"""What is wrong, and what the diagnosis must call it. Of the others no hypothesis is there."""
UNEXPLAINED = {"fresh text tower", "zeroed column", "swapped columns", "one weight"}
SAMPLE = {
    *("gelu", "bf16 rounded", "eps 1e-3", "heads", "pooling", "normalised", "logit scale", "mean and std"),
    *("interpolation", "size", "no start token", "fresh text tower", "zeroed column", "one weight"),
}
"""One fault of each kind, for an ordinary run."""
LOWERED = (
    {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    {},
)
"""Kernels of older processors; an ordinary run takes the first, which are the furthest from this one's."""


def other_process(question: Mapping[str, Any], folder: Path, **variables: str) -> dict[str, Golden]:
    """What it answers; where variables decide on its kernels, it begins anew, as nothing may be imported before."""
    output, asked = folder / "answers.json", folder / "question.json"
    asked.write_text(json.dumps({**question, "output": str(output)}))
    if variables:
        command = [sys.executable, str(ANSWERING), str(asked)]
        done = subprocess.run(command, text=True, check=False, env={**os.environ, **variables}, capture_output=True)
    else:
        done = warm_run([ANSWERING, asked], folder)
    assert done.returncode == 0, done
    return {name: Golden.model_validate(each) for name, each in json.loads(output.read_text()).items()}


@pytest.fixture(scope="session", params=["digits", "ViT-B-32"])
def saved(
    request: pytest.FixtureRequest, whole: bool, digits: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """Name of a model, and its checkpoint: trained, or of random weights."""
    if request.param != "digits" and not whole:
        pytest.skip("minutes more; `make sweep` does the large model")
    path = tmp_path_factory.mktemp("faults") / "model.safetensors"
    if request.param == "digits":
        manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path)
        return digits.MODEL, path
    with torch.random.fork_rng():
        torch.manual_seed(0)
        manifest.save(manifest.create_model(request.param), path)
    return request.param, path


def measured(report: Report) -> tuple[Outcome, dict[str, Any], str]:
    rung = next(rung for rung in report.rungs if rung.name == "golden")
    return (
        rung.outcome,
        rung.findings[0].evidence if rung.findings else {},
        rung.findings[0].message if rung.findings else rung.reason,
    )


def rightly(fault: str, called: tuple[str, str] | None) -> bool:
    """Whether a fault was called what it is, or nothing where no hypothesis is of it."""
    if called is None or fault not in EXPECTED:
        return called is None and fault not in EXPECTED
    name, there = EXPECTED[fault]
    return called[0] == name and there in called[1]


@pytest.mark.xdist_group("faults")
def test_every_fault_is_found_and_every_hypothesis_names_its_own(
    saved: tuple[str, Path], tmp_path: Path, whole: bool
) -> None:
    name, path = saved
    quick = (
        manifest.load(path, verify="none").visual.transformer.resblocks[0].mlp.gelu.__class__.__name__ == "QuickGELU"
    )
    # The digits CLIP reads eight tokens at most, so that no prompt is cut further.
    inert = {"quick gelu" if quick else "gelu", *(["short context"] if quick else [])}
    every = (*MODEL_FAULTS, *IMAGE_FAULTS, *TOKEN_FAULTS)
    faults = [fault for fault in every if fault not in inert and (whole or fault in SAMPLE)]
    answers = other_process({"checkpoint": str(path), "name": name, "faults": faults, "threads": 1}, tmp_path)
    wrong, messages = [], {}
    for fault in faults:
        outcome, evidence, message = measured(manifest.compare(answers[fault], path))
        messages[fault] = message
        best = evidence.get("hypotheses", [{}])[0] if evidence.get("hypotheses") else {}
        called = (best.get("name"), best.get("there")) if best.get("fits") else None
        print(f"{name:12} {fault:18} {outcome:5} {evidence.get('distance', 0):8.1e} {called}")
        if outcome is not Outcome.FAIL or not rightly(fault, called):
            wrong.append((fault, outcome, called, message))
    assert not wrong
    assert {fault for fault in faults if fault not in EXPECTED} == UNEXPLAINED & set(faults)
    assert "text_features: nothing in common with the record" in messages["fresh text tower"]
    assert "first layer to depart is visual.transformer.resblocks.1," in messages["one weight"]
    assert "No recorded layer departs" in messages["zeroed column"]


@pytest.mark.xdist_group("faults")
def test_the_same_model_on_other_arithmetic_is_never_accused(
    saved: tuple[str, Path], tmp_path: Path, whole: bool
) -> None:
    name, path = saved
    outcomes = []
    for variables in LOWERED if whole else LOWERED[:1]:
        small = name != "ViT-B-32" and whole
        asked = {"threads": [1, 2, 3, 4] if small else [1, 3], "batches": [None, 1, 2, 3] if small else [None, 3]}
        question = {"checkpoint": str(path), "name": name, "arithmetic": asked}
        answers = other_process(question, tmp_path, **variables)
        for words, answer in answers.items():
            outcome, evidence, message = measured(manifest.compare(answer, path))
            outcomes.append(outcome)
            print(f"{name:12} {' '.join(variables.values()) or 'as it is':14} {words:34} {outcome} {message}")
            assert outcome is Outcome.PASS, (variables, words, evidence)
    assert len(outcomes) == (8 if not whole else 24 if name == "ViT-B-32" else 96)

"""A live model that does not say what its checkpoint says: are its weights the recorded ones, and what else differs?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.schema.report import Report


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    path = tmp_path_factory.mktemp("live") / "ckpt.pt"
    manifest.save(manifest.load(digits.WEIGHTS, verify="none"), path)
    return path


def untouched(model: Any) -> None:
    del model


def fresh_layer(model: Any) -> None:
    torch.manual_seed(0)
    model.transformer.resblocks[1].mlp.c_fc.reset_parameters()


def other_scale(model: Any) -> None:
    model.logit_scale.data.fill_(2.6593)


def fresh_projection(model: Any) -> None:
    torch.manual_seed(0)
    nn.init.normal_(model.visual.proj, std=0.1)


def nan_row(model: Any) -> None:
    model.positional_embedding.data[0] = float("nan")


def through_half(model: Any) -> None:
    model.half().float()


def through_brain(model: Any) -> None:
    model.bfloat16().float()


def half_and_moved(model: Any) -> None:
    model.half().float()
    model.visual.proj.data[0, 0] += 0.1


def other_activation(model: Any) -> None:
    for block in model.visual.transformer.resblocks:
        block.mlp.gelu = nn.GELU()


def no_mask(model: Any) -> None:
    model.attn_mask.zero_()


def hooked(model: Any) -> None:
    model.visual.ln_post.register_forward_hook(lambda _, __, output: output * 1.5)


@dataclass(frozen=True)
class Row:
    """What was done to the model, and what is said.

    Attributes:
        weights: What the rung on weights says, or its finding.
        golden: Rule of the finding on outputs.
        says: What that finding says.
        silent: What it does not speak of.
    """

    do: Callable[[Any], None]
    weights: str
    golden: str | None
    says: str = ""
    silent: str = "with"


ROWS = [
    Row(untouched, "all 86 weights of the model are the recorded ones", None),
    Row(
        other_scale,
        "logit_scale (2.69488 → 2.6593)",
        "G001",
        "1 of 86 weights of the model are not the recorded ones",
        "tower",
    ),
    Row(fresh_layer, "In the text tower, 2 of ", "G001", "2 of 86 weights", "vision"),
    Row(fresh_projection, "In the vision projection, 1 of 1 weights of the model is not", "G001", "1 of 86", "text"),
    Row(nan_row, "positional_embedding (NaN or infinity in it)", "G004", "which begins in transformer.resblocks.0"),
    Row(through_half, "are the recorded ones rounded to float16", "G001", "weights of the model are not the recorded"),
    Row(
        through_brain, "are the recorded ones rounded to bfloat16", "G001", "weights of the model are not the recorded"
    ),
    Row(half_and_moved, "moved by", "G001", "weights of the model are not the recorded ones"),
    Row(other_activation, "all 86 weights", "G001", "its modules are not: visual.transformer.resblocks"),
    Row(no_mask, "all 86 weights", "G001", "attn_mask: a buffer that no checkpoint holds has other values"),
    Row(hooked, "all 86 weights", "G001", "and so are its modules; what differs is code, mode or input"),
]


def compared(row: Row, path: Path) -> Report:
    model = manifest.load(path, verify="none")
    row.do(model)
    return manifest.compare(model, path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.do.__name__.strip("<>"))
def test_live_model_when_it_differs_then_its_weights_are_held_against_the_record(row: Row, saved: Path) -> None:
    report = compared(row, saved)
    weights, golden, _ = report.rungs
    assert row.weights in "\n".join([weights.reason, *(found.message for found in weights.findings)])
    assert {found.rule for found in weights.findings} <= {"G009"}
    assert [found.rule for found in golden.findings] == ([] if row.golden is None else [row.golden])
    for found in golden.findings:
        assert row.says in found.message
        assert row.silent == "with" or row.silent not in found.message
    assert report.exit_code == (0 if row.golden is None else 1)


def test_live_model_when_in_another_type_then_its_weights_are_not_compared(saved: Path) -> None:
    model = manifest.load(saved, verify="none").bfloat16()
    report = manifest.compare(model, saved, across_precisions=True)
    assert report.rungs[0].outcome == "skip"
    assert "are in another element type and were not compared" in report.rungs[0].reason

"""Loading asks a model the first sample of its probe, and the whole probe when that answer is not the recorded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import manifest
from manifest.families.open_clip.adapter import OpenClip
from manifest.schema.document import serialize
from manifest.schema.report import VerificationError
from manifest.storage.sidecars import Sidecars
from manifest.storage.transaction import read_manifest


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many photographs each question had, as they come."""
    photographs: list[int] = []
    outputs = OpenClip.outputs

    def noted(self: OpenClip, module: Any, inputs: Any) -> dict[str, torch.Tensor]:
        photographs.append(len(inputs.tensors["images"]))
        return outputs(self, module, inputs)

    monkeypatch.setattr(OpenClip, "outputs", noted)
    return photographs


def test_loading_asks_for_one_photograph_and_verifying_for_all(
    digits_model: Any, tmp_path: Path, asked: list[int]
) -> None:
    manifest.save(digits_model, tmp_path / "ckpt.pt")
    asked.clear()
    manifest.load(tmp_path / "ckpt.pt")
    assert asked == [1]
    manifest.verify(tmp_path / "ckpt.pt")
    assert asked[1] == 4


def test_answer_that_differs_is_asked_for_again_in_full_and_explained(
    digits_model: Any, tmp_path: Path, asked: list[int]
) -> None:
    path = tmp_path / "ckpt.pt"
    recorded = manifest.save(digits_model, path)
    golden = recorded.golden[0]
    wrong = golden.model_copy(
        update={
            name: {
                output: kept.model_copy(update={"digest": "blake3:" + "0" * 64, "sketch": [-v for v in kept.sketch]})
            }
            for name in ("outputs", "brief")
            for output, kept in [("image_features", getattr(golden, name)["image_features"])]
        }
    )
    Sidecars(path).manifest.write_bytes(serialize(recorded.model_copy(update={"golden": [wrong]})))
    asked.clear()
    with pytest.raises(VerificationError, match="other image_features"):
        manifest.load(path)
    assert asked[:2] == [1, 4]


def test_manifest_without_first_answers_is_compared_whole(digits: Any, asked: list[int]) -> None:
    assert not read_manifest(digits.WEIGHTS).golden[0].brief
    manifest.load(digits.WEIGHTS)
    assert asked == [4]

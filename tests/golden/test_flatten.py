"""Whatever a model returns: dicts, tuples, dataclasses, nested lists, or nothing of use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from manifest.errors import ArchitectureError
from manifest.probes.flatten import MOST_OUTPUTS, flatten

T = torch.ones(2)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Said:
    logits: torch.Tensor
    note: str = "ok"


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (T, ["output"]),
        ({"a": T, "b": [T, T]}, ["output.a", "output.b.0", "output.b.1"]),
        ((T, None, {"x": T}), ["output.0", "output.2.x"]),
        (Pair(T, Said(T)), ["output.left", "output.right.logits"]),
        (BaseModelOutput(last_hidden_state=T), ["output.last_hidden_state"]),
        ([[[T]]], ["output.0.0.0"]),
    ],
)
def test_tensors_are_named_by_where_they_are(answer: Any, names: list[str]) -> None:
    assert list(flatten(answer)) == names


@pytest.mark.parametrize("answer", [None, 3, "text", {}, [], {"a": "b"}])
def test_answer_without_a_tensor_is_refused_in_one_sentence(answer: Any) -> None:
    with pytest.raises(ArchitectureError, match=f"answers with a {type(answer).__name__} in which there is no tensor"):
        flatten(answer)


def test_answer_of_too_many_tensors_or_of_endless_depth_is_refused() -> None:
    with pytest.raises(ArchitectureError, match=f"more than {MOST_OUTPUTS} tensors"):
        flatten([T] * (MOST_OUTPUTS + 1))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ArchitectureError, match="no tensor"):
        flatten(endless)

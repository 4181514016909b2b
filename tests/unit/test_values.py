"""Arguments of builders survive being written down, and nothing else is let in on the way back."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import LayerNorm2d, QuickGELU
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from manifest.errors import ArchitectureError, InputError
from manifest.families.json_arguments import as_data, from_data

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$tuple", "$class", "with"]), inner, max_size=2)
    ),
    max_leaves=12,
)


def through_json(value: Any) -> Any:
    return from_data(json.loads(json.dumps(as_data(value, "x"), allow_nan=False)))


def kinds(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value), [kinds(item) for item in value]
    if isinstance(value, dict):
        return [(kinds(key), kinds(item)) for key, item in value.items()]
    return type(value), value


@given(PLAIN)
def test_plain_value_comes_back_as_it_was_and_of_the_same_type(value: Any) -> None:
    assert kinds(through_json(value)) == kinds(value)


@pytest.mark.parametrize(
    "value",
    [nn.GELU, QuickGELU, LayerNorm2d, FrozenBatchNorm2d, nn.functional.gelu, torch.bfloat16, {"act": (nn.SiLU, [1])}],
    ids=str,
)
def test_layer_or_type_comes_back_as_itself(value: Any) -> None:
    assert through_json(value) == value


def test_partial_comes_back_with_its_keywords() -> None:
    again = through_json(partial(nn.LayerNorm, eps=1e-6))
    assert (again.func, again.keywords) == (nn.LayerNorm, {"eps": 1e-6})


@pytest.mark.parametrize(
    "value",
    [object(), torch.ones(1), print, lambda: 1, partial(nn.LayerNorm, 4), {1, 2}, nn.ReLU(), b"x"],
    ids=lambda value: type(value).__name__,
)
def test_value_that_cannot_be_written_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InputError, match=r"Argument 'act_layer' is .* cannot be recorded"):
        as_data({"a": [value]}, "act_layer")


@pytest.mark.parametrize(
    "data",
    [
        {"$class": "os.system"},
        {"$class": "builtins.eval"},
        {"$class": "torch.nn.modules.module.torch"},
        {"$class": "torch.nn.functional.torch.load"},
        {"$class": "torch.nn.Module.__init__"},
        {"$class": "timm.models._helpers.load_checkpoint"},
        {"$class": "torchvision.models.resnet50"},
        {"$class": "torch.nn.nothing.Here"},
        {"$class": 3},
        {"$class": "GELU"},
        {"$partial": "subprocess.run", "with": {}},
        {"$partial": "torch.nn.LayerNorm", "with": 3},
        {"$dtype": "load"},
        {"$dtype": 3},
        {"$float": "x"},
        {"$tuple": 3},
        {"$items": [[1]]},
        {"$items": [[[], 1]]},
        {"$other": 1},
    ],
    ids=str,
)
def test_record_that_names_anything_but_a_layer_is_refused(data: Any) -> None:
    with pytest.raises(ArchitectureError, match="no layer or value of a model library"):
        from_data(data)

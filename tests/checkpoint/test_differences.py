"""The machine and `torch.load(weights_only=True)` read the same out of a pickle, whatever is in it.

The pickles are those of `fuzz/differing.py`, which `make fuzz` tries for as long as it is told.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))
import differing

from manifest.checkpoint.pickles.torch_objects import SETTABLE


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_pickle_when_the_machine_and_torch_both_read_it_then_they_read_the_same(tmp_path_factory, chance):
    folder = tmp_path_factory.getbasetemp() / "differences"
    folder.mkdir(exist_ok=True)
    differing.attempt(chance, folder)


def test_random_pickles_when_plain_then_both_readers_read_a_third_of_them(tmp_path):
    # So that the comparison is known to compare.
    became = []
    for seed in range(60):
        writer = differing.Writer(Random(seed), legacy=False)
        writer.odd = False
        became.append(differing.compare(writer.whole(), tmp_path))
    assert became.count("same") >= 20, became


def test_comparison_when_a_value_differs_then_says_so():
    writer = differing.Writer(Random(1), legacy=False)
    writer.odd = False
    pickle = b"\x80\x02}" + writer.text("w") + writer.tensor() + b"s."
    inert = differing.TorchObjects()
    root = differing.interpret(pickle, inert.constructors, inert.persistent).root
    with pytest.raises(differing.Different):
        differing._Comparison(differing._STORED).same(root, {"w": torch.full((7,), 7)}, "object")


def test_attributes_of_a_tensor_when_torch_lets_them_be_set_then_are_known():
    tensor = torch.nn.Parameter(torch.ones(1))
    found = set()
    for name in dir(tensor):
        kept = [getattr(kind, "__dict__", {}).get(name) for kind in type(tensor).__mro__]
        if not name.startswith("__") and any(hasattr(each, "__set__") for each in kept):
            try:
                setattr(torch.nn.Parameter(torch.ones(1)), name, object())
            except AttributeError:
                continue  # it cannot be set at all
            except Exception:
                pass  # it can, to something else
            found.add(name)
    assert found <= SETTABLE

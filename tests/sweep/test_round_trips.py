"""Every model that the libraries can make: captured, written as JSON, and built again as the same model.

Models are made without weights, by the libraries' own builders. Those that do not come back are listed with their
reasons in `failures.yaml`, and a test fails when one of them does come back, so that the list only shrinks.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import torchvision
import yaml
from torch import nn

from manifest.families import family
from manifest.families.equivalence import first_difference
from manifest.families.meta_build import without_weights
from manifest.families.protocol import Creation
from manifest.schema.document import Architecture

FAILURES: dict[str, dict[str, dict[str, str]]] = yaml.safe_load(Path(__file__).with_name("failures.yaml").read_text())


@dataclass(frozen=True)
class Source:
    """Where the models of a family come from.

    Attributes:
        names: All of them.
        make: Makes one without weights.
        every: The sample of an ordinary run is every so many of them.
        arguments: Those of the call that makes one.
    """

    names: Callable[[], list[str]]
    make: Callable[[str], nn.Module]
    every: int = 1
    arguments: Callable[[str], dict[str, Any]] = lambda name: {}  # noqa: ARG005


def _open_clip(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = open_clip.create_model(name, device="meta", load_weights=False)
    return model


def _offline_open_clip() -> list[str]:
    """Without those whose text towers are configured by a hub."""
    return [
        name for name in open_clip.list_models() if "hf_model_name" not in open_clip.get_model_config(name)["text_cfg"]
    ]


def _timm(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name)
    return model


def _untrained(name: str) -> dict[str, Any]:
    """A torchvision builder's arguments by which nothing is fetched."""
    parameters = inspect.signature(torchvision.models.get_model_builder(name)).parameters
    return {parameter: None for parameter in ("weights", "weights_backbone") if parameter in parameters}


def _torchvision(name: str) -> nn.Module:
    with without_weights():  # RegNet takes numbers out of tensors, which a meta device has not
        return torchvision.models.get_model(name, **_untrained(name))


SOURCES = {
    "open_clip": Source(_offline_open_clip, _open_clip, every=70),
    "timm": Source(timm.list_models, _timm, every=450),
    "torchvision": Source(torchvision.models.list_models, _torchvision, every=60, arguments=_untrained),
}


def models(whole: bool) -> Iterator[tuple[str, str]]:
    for name, source in SOURCES.items():
        every = 1 if whole else source.every
        yield from ((name, model) for model in source.names()[::every])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("--whole", default=False)
    chosen = list(models(whole))
    metafunc.parametrize(("library", "name"), chosen, ids=["-".join(each) for each in chosen])


def round_trip(library: str, live: nn.Module, creation: Creation | None) -> str | None:
    """How the model that comes back differs from the one that went out; None when it does not."""
    adapter = family(library)
    written = adapter.capture(live, creation).architecture.model_dump_json(by_alias=True)
    architecture = Architecture.model_validate(json.loads(written))
    built = adapter.build(architecture)
    if departure := first_difference(built, live):
        return departure
    # The structure is the same by now; the operators need be traced once more by one of the two ways only.
    if creation is not None and adapter.operators(built) != architecture.operators:
        return "other operators"
    return None


@pytest.mark.parametrize("known", ["call", "bare module"])
def test_model_when_captured_and_built_again_is_the_same(library: str, name: str, known: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    source = SOURCES[library]
    live = source.make(name)
    creation = Creation(name, source.arguments(name)) if known == "call" else None
    if reason := FAILURES[known].get(library, {}).get(name):
        with pytest.raises(Exception, match="cannot be rebuilt"):
            round_trip(library, live, creation)
        pytest.xfail(reason)
    assert round_trip(library, live, creation) is None

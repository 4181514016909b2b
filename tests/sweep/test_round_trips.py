"""Every model that the libraries can make: captured, written as JSON, and built again as the same model.

Models are made on the meta device, by the libraries' own builders. Those that do not come back are listed with their
reasons in `failures.yaml`, and a test fails when one of them does come back, so that the list only shrinks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from torch import nn

from manifest.document import Architecture
from manifest.families import Creation, family
from manifest.families.proving import first_departure

FAILURES: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("failures.yaml").read_text())


@dataclass(frozen=True)
class Source:
    """Where the models of a family come from.

    Attributes:
        names: All of them.
        make: Makes one on the meta device.
        every: The sample of an ordinary run is every so many of them.
    """

    names: Callable[[], list[str]]
    make: Callable[[str], nn.Module]
    every: int = 1


def _open_clip(name: str) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = open_clip.create_model(name, device="meta", load_weights=False)
    return model


def _offline_open_clip() -> list[str]:
    """Without those whose text towers are configured by a hub."""
    return [
        name for name in open_clip.list_models() if "hf_model_name" not in open_clip.get_model_config(name)["text_cfg"]
    ]


SOURCES = {"open_clip": Source(_offline_open_clip, _open_clip)}


def models(whole: bool) -> Iterator[tuple[str, str]]:
    for name, source in SOURCES.items():
        every = 1 if whole else source.every
        yield from ((name, model) for model in source.names()[::every])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("--whole", default=False)
    metafunc.parametrize(("library", "name"), list(models(whole)), ids="-".join)


def round_trip(library: str, live: nn.Module, creation: Creation | None) -> str | None:
    """How the model that comes back differs from the one that went out; None when it does not."""
    adapter = family(library)
    written = adapter.capture(live, creation).model_dump_json(by_alias=True)
    architecture = Architecture.model_validate(json.loads(written))
    built = adapter.build(architecture)
    if departure := first_departure(built, live):
        return departure
    if adapter.operators(built) != architecture.operators:
        return "other operators"
    return None


@pytest.mark.parametrize("known", ["call", "bare module"])
def test_model_when_captured_and_built_again_is_the_same(library: str, name: str, known: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    live = SOURCES[library].make(name)
    if known == "call":
        assert round_trip(library, live, Creation(name)) is None
    elif reason := FAILURES.get(library, {}).get(name):
        with pytest.raises(Exception, match="cannot be rebuilt"):
            round_trip(library, live, None)
        pytest.xfail(reason)
    else:
        assert round_trip(library, live, None) is None

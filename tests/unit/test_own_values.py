"""Arguments of networks of one's own that are objects, classes and functions of one's own code."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import manifest
from manifest.errors import ArchitectureError, InputError, NotGrantedError
from manifest.families.callable.script import own_name
from manifest.families.json_arguments import as_data, from_data, modules_named
from manifest.storage.transaction import read_manifest
from manifest.training.recording import recording

CONFIG = """
from dataclasses import dataclass, field
from enum import Enum
from os import system

from torch import nn


class Pool(Enum):
    MEAN = "mean"
    LAST = 1


class Activation(str, Enum):
    RELU = "relu"


def swish(x, scale=1.0):
    return x * (scale * x).sigmoid()


class Norm(nn.LayerNorm):
    pass


@dataclass(frozen=True)
class Sub:
    pool: Pool = Pool.MEAN
    act: Activation = Activation.RELU


@dataclass(slots=True)
class Slots:
    depth: int = 2


@dataclass
class Config:
    width: int = 8
    sub: Sub = field(default_factory=Sub)
    slots: Slots = field(default_factory=Slots)
    ties: tuple = (1, 2)
"""
MODEL = """
from torch import nn


class Net(nn.Module):
    def __init__(self, cfg, norm, act, out_dir=None):
        super().__init__()
        from own_values.config import Activation, Pool

        assert cfg.sub.pool is Pool.MEAN and cfg.sub.act is Activation.RELU
        self.norm, self.act = norm(cfg.width), act
        self.layers = nn.ModuleList(nn.Linear(cfg.width, cfg.width) for _ in range(cfg.slots.depth))

    def forward(self, x):
        for layer in self.layers:
            x = self.act(layer(self.norm(x)))
        return x
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the configs, in a package of the user's own."""
    package = tmp_path / "own_values"
    package.mkdir()
    for name, text in (("__init__", ""), ("config", CONFIG), ("model", MODEL)):
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_values", "own_values.config", "own_values.model"):
        monkeypatch.delitem(importlib.sys.modules, name, raising=False)  # type: ignore[attr-defined]
    return importlib.import_module("own_values.config")


def through_json(value: Any, home: str = "own_values.model") -> Any:
    def find(name: str) -> Any:
        module, _, attribute = name.rpartition(":")
        return getattr(importlib.import_module(module or home), attribute)

    return from_data(json.loads(json.dumps(as_data(value, "x", own=partial(own_name, home)))), find)


@pytest.mark.parametrize("home", ["own_values.model", "own_values.config", "train.py"])
def test_object_of_ones_own_comes_back_as_it_was(own: Any, home: str) -> None:
    config = own.Config(width=4, sub=own.Sub(own.Pool.LAST), slots=own.Slots(3))
    again = through_json(
        {"cfg": config, "norm": own.Norm, "act": own.swish, "more": partial(own.swish, scale=2.0)}, home
    )
    assert again["cfg"] == config
    assert again["cfg"].sub.pool is own.Pool.LAST
    assert again["cfg"].sub.act is own.Activation.RELU
    assert (again["norm"], again["act"]) == (own.Norm, own.swish)
    assert (again["more"].func, again["more"].keywords) == (own.swish, {"scale": 2.0})


@pytest.mark.parametrize(
    "value",
    [Path("a/b.txt"), torch.device("cuda", 1), argparse.Namespace(a=[1]), OmegaConf.create({"a": {"b": 1}})],
    ids=lambda value: type(value).__name__,
)
def test_value_that_configs_hold_comes_back_as_it_was(value: Any) -> None:
    assert through_json({"x": value}) == {"x": value}


def test_only_modules_of_ones_own_are_named(own: Any) -> None:
    data = as_data({"cfg": own.Config(), "norm": own.Norm}, "x", own=partial(own_name, "own_values.model"))
    assert modules_named(data) == ["own_values.config"]
    assert own_name("own_values.config", own.Norm) == "Norm"
    for installed in (json.JSONDecoder, torch.nn.GELU, pytest.MonkeyPatch, print, partial, 3):
        assert own_name("own_values.model", installed) is None
    with pytest.raises(InputError, match="no JSON value"):
        as_data({"log": logging.getLogger("x")}, "x", own=partial(own_name, "own_values.model"))


def test_network_with_such_arguments_is_rebuilt_where_its_package_is_granted(own: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    net: Any = importlib.import_module("own_values.model").Net
    with recording(golden="last", example_inputs={"x": torch.zeros(2, 8)}) as recorder:
        model = net(own.Config(), norm=own.Norm, act=own.swish, out_dir=tmp_path)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1)
        torch.save(model.state_dict(), path)
    assert not recorder.failed
    assert read_manifest(path).architecture.family == "callable"
    assert read_manifest(path).golden
    assert manifest.verify(path, allow=["own_values"]).passed
    loaded = manifest.load(path, allow=["own_values"])
    manifest.save(loaded, tmp_path / "b.pt")
    with pytest.raises(NotGrantedError, match=r"'own_values\.config:\w+' is in the module 'own_values\.config'"):
        manifest.load(path, allow=["own_values.model"], verify="none")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ({"$own": "own_values.config:system"}, "module 'posix'"),
        ({"$object": "own_values.config:field", "with": {}}, "module 'dataclasses'"),
        ({"$enum": "own_values.config:Sub", "member": "x"}, "no layer or value"),
        ({"$own": "own_values.config:nothing"}, "cannot be imported"),
        ({"$own": "json:loads"}, "module 'json'"),
        ({"$device": "nowhere"}, "no layer or value"),
    ],
    ids=str,
)
def test_record_that_names_what_nobody_granted_is_refused(own: Any, tmp_path: Path, argument: Any, says: str) -> None:
    path = tmp_path / "a.pt"
    net: Any = importlib.import_module("own_values.model").Net
    with recording(golden="none"):
        model = net(own.Config(), norm=own.Norm, act=own.swish)
        torch.save(model.state_dict(), path)
    sidecar = path.with_name("a.pt.manifest.json")
    content = json.loads(sidecar.read_text())
    content["architecture"]["config"]["act"] = argument
    sidecar.write_text(json.dumps(content))
    with pytest.raises((ArchitectureError, NotGrantedError), match=says):
        manifest.load(path, allow=["own_values"], verify="none")

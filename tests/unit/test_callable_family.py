"""Modules of the user's own, by a factory: rebuilt exactly, and never imported without leave."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manifest
from manifest.errors import ArchitectureError, InputError, UnknownModelError
from manifest.families import family, remember
from manifest.families.callable.adapter import module_of
from manifest.families.protocol import Creation
from manifest.grants import granted, is_granted
from manifest.schema.report import VerificationError
from tests.conftest import Answer

SOURCE = """
from functools import partial
from os import system
from pathlib import Path

import torch
from torch import nn

Path(__file__).with_name("imported").touch()

class Net(nn.Module):
    def __init__(self, width, kernel=(3, 3)):
        super().__init__()
        self.convolution = nn.Conv2d(3, width, kernel)
        self.head = nn.Linear(width, 2)
        self.register_buffer("scale", torch.arange(4.0), persistent=False)

def build(width, kernel=(3, 3)):
    return Net(width, kernel)

def tied(width):
    net = nn.Sequential(nn.Embedding(9, width), nn.Linear(width, 9, bias=False))
    net[1].weight = net[0].weight
    return net

def nothing():
    return 3

SETTING = 3
made = partial(build, 4)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A package with a name of its own for each test, so that it is imported anew."""
    name = f"mypkg{abs(hash(request.node.nodeid))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("from .models import build\n")
    (tmp_path / name / "models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def saved(package: str, tmp_path: Path) -> Path:
    """A checkpoint of a model whose package, afterwards, was never imported here."""
    model = import_module(f"{package}.models").build(4, kernel=(1, 3))
    arguments = {"width": 4, "kernel": (1, 3)}
    name = f"{package}.models:build"
    manifest.save(model, tmp_path / "net.pt", model_name=name, family="callable", arguments=arguments)
    for module in (package, f"{package}.models"):
        del sys.modules[module]
    (tmp_path / package / "imported").unlink()
    return tmp_path / "net.pt"


def model_of(package: str, name: str = "build", **arguments: Any) -> nn.Module:
    with granted([package]):
        creation = Creation(f"{package}.models:{name}", arguments, family="callable")
        module: nn.Module = family("callable").create(creation)
    remember(module, creation)
    return module


def test_factory_and_its_arguments_are_recorded_and_the_model_is_rebuilt(package: str, saved: Path) -> None:
    loaded: Any = manifest.load(saved, allow=[package])
    recorded = manifest.save(loaded, saved.with_name("again.safetensors"))
    assert recorded.architecture.name == f"{package}.models:build"
    assert recorded.architecture.class_name == "Net"
    assert recorded.architecture.config == {"width": 4, "kernel": {"$tuple": [1, 3]}}
    assert loaded.convolution.kernel_size == (1, 3)
    assert torch.equal(loaded.scale, torch.arange(4.0))
    assert recorded.provenance.parents[0].name == "net.pt"
    assert {part.role for part in recorded.components} == {"backbone"}
    assert (recorded.golden, recorded.architecture.operators) == ([], None)


@pytest.mark.parametrize("allow", [(), ("mypk",), ("models",), ("",)])
def test_module_is_not_imported_without_a_grant_of_its_own(package: str, saved: Path, allow: tuple[str, ...]) -> None:
    report = manifest.verify(saved, allow=allow)
    finding = next(item for rung in report.rungs for item in rung.findings if item.rule == "A005")
    assert report.exit_code == 1
    assert f"is in the module '{package}.models', and importing it runs its code" in finding.message
    assert f"allow=['{package}.models'] (`--allow {package}.models`)" in finding.message
    assert finding.remedy == (
        "Read that module first, for whoever wrote the manifest chose it; then allow it as said above."
    )
    with pytest.raises(VerificationError, match=r"allow=\["):
        manifest.load(saved, allow=allow)
    with pytest.raises(ArchitectureError, match=r"allow=\["):
        manifest.load(saved, verify="none", allow=allow)
    assert not (saved.parent / package / "imported").exists()
    assert package not in sys.modules


@pytest.mark.parametrize("inside", ["", ".models"])
def test_granted_module_is_imported_and_the_grant_ends_with_the_call(package: str, saved: Path, inside: str) -> None:
    assert manifest.verify(saved, allow=[package + inside]).exit_code == 0
    assert (saved.parent / package / "imported").exists()
    assert not is_granted(package)


def test_command_line_grants_by_an_option(package: str, saved: Path, run: Callable[..., Answer]) -> None:
    assert run("verify", saved.name, "--allow", "other").code == 1
    assert run("verify", saved.name, "--allow", "other", "--allow", package).code == 0


def test_manifest_for_an_existing_checkpoint_is_created_by_the_factorys_name(package: str, tmp_path: Path) -> None:
    torch.save(model_of(package, width=4).state_dict(), tmp_path / "a.pt")
    manifest.create(tmp_path / "a.pt", f"{package}.models:build", family="callable", arguments={"width": 4})
    assert manifest.verify(tmp_path / "a.pt", allow=[package]).exit_code == 0


def test_model_that_was_cast_is_rebuilt_in_its_precision(package: str, tmp_path: Path) -> None:
    model = model_of(package, width=4).to(torch.bfloat16)
    recorded = manifest.save(model, tmp_path / "a.pt")
    loaded = manifest.load(tmp_path / "a.pt", allow=[package])
    assert recorded.architecture.precision == "bf16"
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_tied_weights_stay_tied(package: str, tmp_path: Path) -> None:
    manifest.save(model_of(package, "tied", width=4), tmp_path / "a.safetensors")
    loaded: Any = manifest.load(tmp_path / "a.safetensors", allow=[package])
    assert loaded[1].weight is loaded[0].weight


def test_model_that_was_changed_after_it_was_made_is_not_saved(package: str, tmp_path: Path) -> None:
    model: Any = model_of(package, width=4)
    model.head = nn.Sequential(model.head, nn.GELU())
    with pytest.raises(ArchitectureError, match="head"):
        manifest.save(model, tmp_path / "a.pt")
    assert list(tmp_path.glob("a.pt*")) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (".models:system", r"is defined in the module 'posix', and importing it runs its code"),
        (".models:partial", r"is defined in the module 'functools'"),
        (".models:Path", r"is defined in the module 'pathlib"),
        (".models:SETTING", r"is a int, expected a function or class"),
        (".models:nothing", r"returns a int, expected a torch.nn.Module"),
        (".models:missing", r"cannot be imported \(AttributeError"),
        (".missing:build", r"cannot be imported \(ModuleNotFoundError"),
    ],
)
def test_name_that_is_no_factory_of_the_granted_module_is_refused(package: str, name: str, words: str) -> None:
    with granted([package]), pytest.raises((ArchitectureError, UnknownModelError), match=words):
        family("callable").describe(Creation(package + name, family="callable"))


@pytest.mark.parametrize(
    "name", ["build", "a.b:", ":build", "a.b:os.system", "a..b:c", "a b:c", "../a:b", "__main__:f"]
)
def test_name_that_nobody_else_can_import_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"names no factory, expected|move it into a module of its own"):
        module_of(name)


def test_grant_covers_a_module_and_what_is_inside_it_and_nothing_else() -> None:
    with granted(["mypkg"]):
        assert is_granted("mypkg")
        assert is_granted("mypkg.models.nets")
        assert not is_granted("mypkg2")
        with granted(["other.models"]):
            assert is_granted("mypkg")
            assert not is_granted("other")
        assert not is_granted("other.models")
    assert not is_granted("mypkg")

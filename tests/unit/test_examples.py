"""The examples in the docstrings of the public names, run as they stand there.

They run in a directory with a trained checkpoint, `ckpt.pt`, signed with `release.key`; its weights alone, as
`weights.safetensors`; and the config of its architecture.
"""

from __future__ import annotations

import contextlib
import doctest
import inspect
import re
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest

import manifest
from manifest.signing import generate_keys
from tests.hub.conftest import ask
from tests.hub.server import serving

CLASSES = ("Probe", "deterministic", "recording")
"""What people call that is no function; the other classes are what functions return."""
FUNCTIONS = [name for name in manifest.__all__ if getattr(getattr(manifest, name), "__name__", None) == name]
FUNCTIONS = [name for name in FUNCTIONS if inspect.isfunction(getattr(manifest, name))]
FUNCTIONS.append("fleet.map")
"""Without those that are the older name of another."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, digits: ModuleType) -> Path:
    """Where the examples run, one after the other."""
    place = tmp_path_factory.mktemp("examples")
    generate_keys(place / "release")
    shutil.copy(digits.WEIGHTS, place / "weights.safetensors")
    shutil.copy(digits.HERE / "digits-clip.json", place)
    model = manifest.load(digits.WEIGHTS, verify="none")
    manifest.save(model, place / "ckpt.pt", key=place / "release.key", extras={"epoch": 3})
    return place


@contextlib.contextmanager
def a_hub(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """A hub on this machine, with the checkpoint at `acme/digits`."""
    with serving() as hub:
        ask(hub, monkeypatch, home)
        manifest.push("ckpt.pt", "acme/digits")
        yield
    shutil.rmtree("pulled", ignore_errors=True)  # what the example of `pull` pulled, or others would find it


def example(name: str) -> doctest.DocTest:
    text = inspect.getdoc(attrgetter(name)(manifest)) or ""
    return doctest.DocTestParser().get_doctest(text, {"manifest": manifest}, f"manifest.{name}", None, 0)


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_public_name_when_its_docstring_is_read_then_it_shows_an_example(name):
    section = re.search(r"^Example:\n((?: {4}.*\n?|\n)+)", inspect.getdoc(attrgetter(name)(manifest)) or "", re.M)
    assert section, f"manifest.{name} shows no example"
    assert f"manifest.{name}(" in section[1]
    assert example(name).examples


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_example_when_run_then_it_says_what_its_docstring_shows(name, directory, monkeypatch, tmp_path):
    monkeypatch.chdir(directory)
    said: list[str] = []
    with a_hub(monkeypatch, tmp_path) if name in ("pull", "push") else contextlib.nullcontext():
        found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example(name), out=said.append)
    assert found.attempted
    assert not found.failed, "".join(said)

"""What is done when a module is imported, also of one whose import has begun and not ended."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manifest.training.patches import Patches, when_libraries_are_imported
from tests.training.test_any_command import RUN, environment

ORDER: list[str] = []
MARK = "from tests.training.test_import_hooks import ORDER, begin, watch\n"


def begin() -> None:
    """Called at the top of a module, as by the end of torch's import."""
    when_libraries_are_imported(lambda: ORDER.append("begun"))


def watch(patches: Patches, module: str) -> None:
    patches.when_imported(module, lambda loaded: ORDER.append(f"{module} is there: {hasattr(loaded, 'last')}"))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """Where the user's modules are, and where installed ones are."""
    own, installed = tmp_path / "own", tmp_path / "site-packages"
    before = set(sys.modules)
    for place in (own, installed):
        place.mkdir()
        monkeypatch.syspath_prepend(place)
    ORDER.clear()
    yield own, installed
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_begins_when_the_library_is_there_whose_import_it_is_part_of(places: tuple[Path, Path]) -> None:
    own, installed = places
    (installed / "hooks_outer.py").write_text(f"{MARK}import hooks_inner\nORDER.append('outer')\n")
    (installed / "hooks_inner.py").write_text(f"{MARK}begin()\nORDER.append('inner')\n")
    (own / "hooks_train.py").write_text(f"{MARK}import hooks_outer\nORDER.append('trains')\n")
    importlib.import_module("hooks_train")
    assert ORDER == ["inner", "outer", "begun", "trains"]


def test_begins_at_once_where_no_library_is_being_imported(places: tuple[Path, Path]) -> None:
    own, _ = places
    begin()
    (own / "hooks_alone.py").write_text(f"{MARK}begin()\nORDER.append('trains')\n")
    importlib.import_module("hooks_alone")
    assert ORDER == ["begun", "begun", "trains"]


def test_does_not_begin_after_an_import_that_failed(places: tuple[Path, Path]) -> None:
    _, installed = places
    (installed / "hooks_broken.py").write_text(f"{MARK}begin()\nraise ImportError('no')\n")
    with pytest.raises(ImportError):
        importlib.import_module("hooks_broken")
    assert not ORDER


def test_module_that_is_being_imported_is_looked_at_when_it_is_there(places: tuple[Path, Path]) -> None:
    own, _ = places
    (own / "hooks_half.py").write_text(f"{MARK}import tests.training.test_import_hooks as t\nt.look()\nlast = 1\n")
    with Patches() as patches:
        globals()["look"] = lambda: watch(patches, "hooks_half")
        importlib.import_module("hooks_half")
        watch(patches, "hooks_half")
        watch(patches, "hooks_later")
        (own / "hooks_later.py").write_text("last = 1\n")
        assert importlib.util.find_spec("hooks_later")  # as libraries look whether another is installed
        importlib.import_module("hooks_later")
    assert ORDER == ["hooks_half is there: True"] * 2 + ["hooks_later is there: True"]


@pytest.mark.parametrize(
    "first",
    [
        "from safetensors.torch import save_file",
        pytest.param("from accelerate import Accelerator", marks=pytest.mark.whole),
        pytest.param("import lightning.pytorch", marks=pytest.mark.whole),
        pytest.param("from transformers import Trainer", marks=pytest.mark.whole),
        pytest.param("import open_clip", marks=pytest.mark.whole),
    ],
)
def test_script_whose_first_import_is_a_library_that_imports_torch_is_recorded(first: str, tmp_path: Path) -> None:
    pytest.importorskip(first.split()[1].partition(".")[0])
    (tmp_path / "train.py").write_text(
        f"{first}\nfrom own_networks import Perceptron\nfrom safetensors.torch import save_file\n"
        "model = Perceptron(8)\nsave_file(model.state_dict(), 'a.safetensors')\n"
    )
    done = subprocess.run(
        [*RUN, sys.executable, "train.py"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    assert "described a.safetensors" in done.stderr, done.stderr

"""How little a command imports before it answers; the numbers here may only become smaller."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import manifest
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars

_HELPERS = frozenset(
    {
        *("annotated_doc", "shellingham"),  # of typer
        *("annotated_types", "pydantic_core", "typing_extensions", "typing_inspection"),  # of pydantic
    }
)
_ROOM = 3
"""Modules of this package by which a number here may be too large: some are imported on some Pythons only."""

STARTS: dict[str, tuple[set[str], int]] = {
    # Command: the libraries that it imports, and how many modules of this package.
    "--version": ({"typer"}, 11),
    "--help": ({"typer"}, 25),
    "rule C003": ({"typer", "pydantic"}, 15),
    "policy example": ({"typer", "pydantic"}, 10),
    "show CKPT": ({"typer", "pydantic", "blake3", "rich"}, 49),
    "log CKPT": ({"typer", "pydantic", "blake3", "rich"}, 59),
    "verify --fast CKPT": ({"typer", "pydantic", "blake3", "rich", "numpy"}, 83),
    "verify --fast SIGNED --key KEY": ({"typer", "pydantic", "blake3", "rich", "cryptography"}, 79),
    "audit CKPT": ({"typer", "pydantic", "blake3", "rich", "numpy"}, 73),
}

_PROGRAM = """
import atexit, json, sys
before = set(sys.modules)  # what Python and the machine it runs on import at every start
def tell():
    imported = {name.partition(".")[0] for name in set(sys.modules) - before}
    found = imported - sys.stdlib_module_names - {"manifest", "__main__"}
    own = sum(name.partition(".")[0] == "manifest" for name in sys.modules)
    print(json.dumps([sorted(name for name in found if not name.startswith("_")), own]), file=sys.stderr)
atexit.register(tell)
from manifest.cli import main
main()
"""


@pytest.fixture(scope="module")
def signed(digits: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A signed checkpoint, and the public key of its signer."""
    folder = tmp_path_factory.mktemp("signed")
    for source in (digits.WEIGHTS, Sidecars(digits.WEIGHTS).manifest):
        shutil.copy(source, folder)
    private, public = generate_keys(folder / "release")
    manifest.sign(folder / digits.WEIGHTS.name, key=private)
    return folder / digits.WEIGHTS.name, public


def _is_pinned(library: str) -> bool:
    pins = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").split()
    return f"{library}=={version(library)}" in pins


@pytest.mark.skipif(
    not (_is_pinned("typer") and _is_pinned("pydantic")), reason="the numbers are of the versions in constraints.txt"
)
@pytest.mark.parametrize("command", STARTS)
def test_command_when_it_starts_then_imports_no_more_than_it_needs(
    command: str, digits: ModuleType, signed: tuple[Path, Path]
) -> None:
    files = {"CKPT": digits.WEIGHTS, "SIGNED": signed[0], "KEY": signed[1]}
    words = [str(files.get(word, word)) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    imported, own = json.loads(done.stderr.splitlines()[-1])
    libraries, modules = STARTS[command]
    assert set(imported) - _HELPERS == libraries
    assert own <= modules, "import later what is not always needed"
    assert own >= modules - _ROOM, "write the smaller number down here"

"""Pages that tell of everything of a kind leave nothing out, and the format can be checked by hand as its page says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

import manifest
from manifest.cli import application
from manifest.schema.document import Manifest
from manifest.schema.rules import RULES
from manifest.signing import generate_keys
from manifest.storage.sidecars import Sidecars
from tests.docs.pages import ROOT, blocks


@pytest.fixture(scope="module")
def reference() -> Any:
    """`docs/hooks/reference.py`, which writes two pages when the site is built."""
    pytest.importorskip("mkdocs")
    spec = spec_from_file_location("reference", ROOT / "docs" / "hooks" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_page_of_commands_has_every_option(reference: Any) -> None:
    page = reference.commands_page()
    program: Any = typer.main.get_command(application())
    for name, command in program.commands.items():
        assert f"manifest {name}" in page
        for parameter in getattr(command, "params", ()):
            assert parameter.hidden or all(option in page for option in parameter.opts if option.startswith("--"))


def test_page_of_rules_has_every_rule(reference: Any) -> None:
    page = reference.rules_page()
    assert all(f"### {rule.code} {rule.name}" in page for rule in RULES.values())


def test_page_of_python_has_every_public_function_and_class() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    told = set(re.findall(r"manifest\.(\w+)", page))
    public = {name for name in manifest.__all__ if not name.startswith("_")}
    assert public <= told


def fields(model: type[BaseModel]) -> Iterator[str]:
    """The names that a document has in it, as they are written."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for part in re.findall(r"\b[A-Z]\w+", str(field.annotation)):
            inner = getattr(sys.modules[model.__module__], part, None)
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not model:
                yield from fields(inner)


def test_page_of_the_format_has_every_field() -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    assert not [name for name in fields(Manifest) if f"`{name}`" not in page]


@pytest.fixture
def signed(digits: Any, tmp_path: Path) -> Path:
    """A signed checkpoint under the names of the page."""
    path = tmp_path / "ckpt.safetensors"
    shutil.copy(digits.WEIGHTS, path)
    shutil.copy(Sidecars(digits.WEIGHTS).manifest, Sidecars(path).manifest)
    private, _ = generate_keys(tmp_path / "release")
    manifest.sign(path, key=private)
    return path


@pytest.mark.parametrize("changed", ["", "ckpt.safetensors", "ckpt.safetensors.manifest.json"])
def test_checking_by_hand_finds_a_changed_bit_and_nothing_else(changed: str, signed: Path) -> None:
    (program,) = (block.text for block in blocks(ROOT / "docs" / "format.md") if block.language == "python")
    if changed:
        content = bytearray((signed.parent / changed).read_bytes())
        content[-2] ^= 1
        (signed.parent / changed).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=signed.parent, capture_output=True, text=True, check=False
    )
    assert bool(done.returncode) == bool(changed), done.stderr

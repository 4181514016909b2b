"""Each command that needs no torch, on the checkpoint that ships with this project.

`make test-pythons` runs this file alone under other Pythons, in environments without torch.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SHIPPED = Path(__file__).parents[2] / "fixtures" / "digits_clip" / "digits_clip.safetensors"
NAME = "ckpt.safetensors"
Run = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the checkpoint and its manifest."""
    shutil.copy(SHIPPED, tmp_path / NAME)
    manifest = json.loads(SHIPPED.with_name(f"{SHIPPED.name}.manifest.json").read_bytes())
    manifest["checkpoint"]["files"][0]["path"] = NAME
    (tmp_path / f"{NAME}.manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return tmp_path


@pytest.fixture
def logged() -> Iterator[None]:
    """The logger of the package is as before afterwards."""
    logger = logging.getLogger("manifest")
    before = logger.handlers, logger.level
    yield
    logger.handlers, logger.level = before


COMMANDS = {
    "verify": (["verify", NAME, "--fast"], 0, "all 13,947,420 bytes are those that were saved"),
    "audit": (["audit", NAME], 0, "safe to load"),
    "audit-json": (["audit", NAME, "--format", "json"], 0, '"safety": "safe"'),
    "audit-sarif": (["audit", NAME, "--format", "sarif"], 0, '"version": "2.1.0"'),
    "verify-junit": (["verify", NAME, "--fast", "--format", "junit"], 0, "<testsuites"),
    "show": (["show", NAME], 0, "digits-clip"),
    "show-tensors": (["show", NAME, "--tensors"], 0, "visual.conv1.weight"),
    "show-tensors-and-manifest": (["show", NAME, "--tensors"], 0, "`manifest show` without options prints it"),
    "log": (["log", NAME], 0, NAME),
    "rule": (["rule", "C003"], 0, "component-initialised"),
    "schema": (["schema", "manifest"], 0, "manifest/v1"),
    "policy": (["policy", "example", "release"], 0, "signature:"),
    "diff": (["diff", NAME, NAME], 0, "are the same"),
    "repair": (["repair", "."], 0, ""),
    "no-file": (["verify", "absent.pt", "--fast"], 2, "There is no file"),
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_static_command_answers(name: str, place: Path, run: Run) -> None:
    arguments, code, said = COMMANDS[name]
    answer = run(*arguments)
    assert answer.code == code, answer
    assert said in answer.out + answer.err
    assert place.joinpath(NAME).stat().st_size == SHIPPED.stat().st_size


def test_checkpoint_when_signed_then_verifies_by_the_public_key_and_not_when_changed(place: Path, run: Run) -> None:
    assert run("keygen", "release").code == 0
    assert run("sign", NAME, "--key", "release.key").code == 0
    assert "signed by the trusted" in run("verify", NAME, "--fast", "--key", "release.pub").out
    data = bytearray((place / NAME).read_bytes())
    data[-1] ^= 1
    (place / NAME).write_bytes(data)
    answer = run("verify", NAME, "--fast", "--key", "release.pub")
    assert answer.code == 1
    assert "I002" in answer.out


def test_checkpoint_when_converted_then_holds_the_same_weights(place: Path, run: Run) -> None:
    assert run("convert", NAME, "out.safetensors").code == 0
    before, after = (json.loads((place / f"{name}.manifest.json").read_bytes()) for name in (NAME, "out.safetensors"))
    assert before["weights"]["digest"] == after["weights"]["digest"]
    assert run("verify", "out.safetensors", "--fast").code == 0


def test_version_names_python_and_the_libraries_that_are_installed(run: Run) -> None:
    lines = dict(line.split(" ", 1) for line in run("--version").out.splitlines())
    assert list(lines) == ["manifest", "python", "torch", "open_clip_torch", "timm", "safetensors"]
    assert lines["python"] == sys.version.split()[0]
    assert (lines["torch"] == "(not installed)") == (find_spec("torch") is None)


@pytest.mark.parametrize("arguments", [["-v", "verify", NAME, "--fast"], ["verify", NAME, "--fast", "--verbose"]])
@pytest.mark.usefixtures("place", "logged")
def test_verbose_when_asked_then_logs_what_was_opened_and_checked(arguments: list[str], run: Run) -> None:
    answer = run(*arguments)
    assert answer.code == 0
    assert f"manifest: opened {NAME}: safetensors, 1 files, 86 tensors" in answer.err
    assert f"manifest: {NAME}: integrity pass in" in answer.err
    assert all(line.startswith("manifest: ") for line in answer.err.splitlines())


@pytest.mark.usefixtures("place")
def test_log_when_not_asked_for_is_silent(run: Run) -> None:
    assert run("verify", NAME, "--fast").err == ""

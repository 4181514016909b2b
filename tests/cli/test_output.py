"""What goes to stdout, to a file and to a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors.torch import load_file, save_file

import manifest
from manifest.checkpoint import open_checkpoint
from manifest.storage.transaction import read_manifest

Run = Callable[..., Any]

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202etxet\u2066\x9b31m\x00"
"""Clears a screen, sets a title, breaks a line, turns the reading direction."""


def test_report_in_json_is_what_its_schema_says(signed: Path, run: Run) -> None:
    schema = json.loads(run("schema", "report").out)
    for path in (signed, signed.with_name("ckpt.safetensors")):
        report = json.loads(run("verify", path.name, "--fast", "--format", "json").out)
        jsonschema.validate(report, schema)
        assert report["subject"] == path.name


def test_shown_manifest_in_json_is_what_its_schema_says(signed: Path, run: Run) -> None:
    shown = json.loads(run("show", signed.name, "--format", "json").out)
    jsonschema.validate(shown, json.loads(run("schema", "manifest").out))


@pytest.mark.parametrize("form", ["text", "json"])
def test_quiet_writes_its_file_and_prints_nothing(form: str, signed: Path, run: Run, tmp_path: Path) -> None:
    options = ("--fast", "--quiet", "--format", form)
    assert run("verify", signed.name, *options).out == ""
    assert run("verify", signed.name, *options, "--output", "page").out == ""
    assert signed.name in (tmp_path / "page").read_text()


def test_digest_that_is_piped_is_whole(signed: Path, run: Run) -> None:
    assert read_manifest(signed).weights.digest in run("show", signed.name).out


def test_terminal_without_marks_gets_signs_in_ascii(signed: Path, run_process: Run) -> None:
    answer = run_process("verify", signed.name, "--fast", PYTHONIOENCODING="ascii")
    assert answer.code == 0
    assert answer.out.startswith("+ ckpt.pt passes")


def on_a_terminal(*arguments: object) -> str:
    """What a process prints to a terminal of its own, where rich would colour it."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "manifest", *map(str, arguments)],
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"},
    ):
        os.close(slave)
        content = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # EIO: the other end has closed
                break
            if not part:
                break
            content += part
    os.close(master)
    return content.decode()


def test_colours_reach_a_terminal_unless_they_are_unwanted(signed: Path) -> None:
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert colour.search(on_a_terminal("verify", signed, "--fast"))
    assert not colour.search(on_a_terminal("verify", signed, "--fast", "--no-color"))


def test_digest_on_a_narrow_terminal_is_folded_and_whole(signed: Path) -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("show", signed, "--no-color"))
    assert read_manifest(signed).weights.digest in re.sub(r"\s+", "", shown)


def printable(text: str) -> bool:
    return all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_hostile_names_of_tensors_reach_no_terminal(
    suffix: str, digits: Any, digits_model: Any, run: Run, tmp_path: Path
) -> None:
    path = tmp_path / f"ckpt.{suffix}"
    manifest.save(digits_model, path, golden=False)
    state = load_file(digits.WEIGHTS) | {f"visual.{HOSTILE}": torch.ones(2)}
    if suffix == "pt":
        torch.save({"state_dict": state, HOSTILE: 1}, path)
    else:
        save_file(state, path, metadata={HOSTILE: HOSTILE})
    with open_checkpoint(path) as stored:
        assert f"visual.{HOSTILE}" in stored.tensors
    answer = run("verify", path.name, "--fast")
    assert answer.code == 1
    assert "I002" in answer.out
    assert printable(answer.out + answer.err)
    config = digits.HERE / "digits-clip.json"
    refused = run("create", path.name, "--model", digits.MODEL, "--model-config", config)
    assert "visual.\\x1b[2J" in refused.complaint
    assert printable(refused.err)


def test_hostile_fields_of_a_manifest_reach_no_terminal(signed: Path, run: Run) -> None:
    sidecar = signed.with_name("ckpt.pt.manifest.json")
    content = json.loads(sidecar.read_bytes())
    hostile(content)
    sidecar.write_text(json.dumps(content))
    for command in (("show",), ("verify", "--fast"), ("verify",)):
        for form in ("text", "json"):
            answer = run(command[0], signed.name, *command[1:], "--format", form)
            assert answer.code in (0, 1, 2)
            assert "x1b" in answer.out + answer.err or "u001b" in answer.out + answer.err
            assert printable(answer.out + answer.err)


def hostile(value: Any) -> None:
    """Put the hostile text behind every free text of a manifest."""
    structured = ("schema", "path", "digest", "blake3", "sha256", "structure", "inputs", "signer", "weights", "mode")
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        item = value[key]
        if isinstance(item, dict | list):
            hostile(item)
        elif isinstance(item, str) and key not in (*structured, "family", "status", "training", "class"):
            value[key] = f"{HOSTILE}{item}"


def test_hostile_name_of_a_file_reaches_no_terminal(signed: Path, run: Run, tmp_path: Path) -> None:
    name = HOSTILE.replace("\x00", "") + ".pt"
    for ending in ("", ".manifest.json", ".manifest.sig"):
        signed.with_name(f"ckpt.pt{ending}").rename(tmp_path / f"{name}{ending}")
    answer = run("verify", name, "--fast")
    assert answer.code == 0
    assert printable(answer.out + answer.err)
    absent = run("verify", f"{name}.absent")
    assert printable(absent.complaint)


def test_card_is_printed_or_written_into_a_readme(signed: Path, run: Run) -> None:
    printed = run("card", "ckpt.pt")
    assert printed.code == 0
    assert "manifest verify ckpt.pt --key PUBLIC_KEY" in printed.out
    readme = signed.with_name("README.md")
    readme.write_text("# Mine\n", encoding="utf-8")
    readme.chmod(0o640)
    for _ in range(2):
        assert run("card", "ckpt.pt", "--into", "README.md").code == 0
    written = readme.read_text(encoding="utf-8")
    assert written.startswith("# Mine\n\n<!-- manifest -->\n## Manifest\n")
    assert written.count("<!-- manifest -->") == 1
    assert printed.out.strip() in written
    assert readme.stat().st_mode & 0o777 == 0o640


def test_card_is_not_written_into_what_is_no_card(signed: Path, run: Run) -> None:
    signed.with_name("README.md").write_bytes(b"\xff\xfe<!-- manifest -->")
    assert "cannot be a model card" in run("card", "ckpt.pt", "--into", "README.md").complaint
    assert signed.with_name("README.md").read_bytes() == b"\xff\xfe<!-- manifest -->"


def test_report_is_printed_as_markdown(signed: Path, run: Run) -> None:
    answer = run("verify", "ckpt.pt", "--fast", "--format", "markdown")
    assert answer.code == 0
    assert answer.out.startswith("### ")
    signed.with_name("ckpt.safetensors").write_bytes(b"broken")
    answer = run("verify", "ckpt.pt", "ckpt.safetensors", "--fast", "--format", "markdown")
    assert answer.code == 1
    assert answer.out.startswith("**1 of 2 pass**")

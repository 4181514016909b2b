"""Exactly what a person reads at a terminal, in a pipe and in ASCII: `snapshots/*.txt`.

What differs between two runs and two machines (times, keys, measured distances) is zeros there. After a change that
is meant, `pytest tests/rendering/test_snapshots.py --snapshots-written` writes the files anew; read their diff.
"""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import manifest
from manifest.cli import main
from manifest.signing import generate_keys

SNAPSHOTS = Path(__file__).with_name("snapshots")
CASES = {
    "show": "show digits.safetensors",
    "show_several": "show digits.safetensors unsafe.pt broken.safetensors",
    "verify_passes": "verify signed.safetensors --key release.pub",
    "verify_activation": "verify activation.safetensors --key release.pub",
    "verify_missing_tower": "verify vision.safetensors --fast",
    "verify_several": "verify signed.safetensors vision.safetensors digits.safetensors broken.safetensors --fast",
    "audit_good": "audit digits.safetensors",
    "audit_unsafe": "audit unsafe.pt",
    "diff": "diff signed.safetensors next.safetensors",
    "diff_folders": "diff one other",
}
WIDTHS = (80, 200)
_STYLE = re.compile(r"\x1b\[([0-9;]*)m")
_CHANGING = (
    (re.compile(r"\b\d\.\d\d s\b"), "0.00 s"),
    (re.compile(r"\bkey [0-9a-f]{16}\b"), "key 0000000000000000"),
    (re.compile(r"\b\d\.\de[+-]\d\d\b"), "0.0e+00"),
    (re.compile(r"\bfrom 0\.\d{4} to 0\.\d{4}\b"), "from 0.0000 to 0.0000"),
)


class _RunsCode:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, digits: ModuleType) -> Path:
    """A folder with what the cases name."""
    place = tmp_path_factory.mktemp("snapshots")
    generate_keys(place / "release")
    for ending in ("", ".manifest.json"):
        shutil.copy(f"{digits.WEIGHTS}{ending}", f"{place}/digits.safetensors{ending}")
    model: Any = manifest.load(digits.WEIGHTS, verify="none")
    manifest.save(model, place / "signed.safetensors", key=place / "release.key")
    _with_another_activation(place / "signed.safetensors", place / "activation.safetensors")
    state = load_file(digits.WEIGHTS)
    vision = {name: value for name, value in state.items() if name.startswith("visual.") or name == "logit_scale"}
    save_file(vision, place / "vision.safetensors")
    shutil.copy(f"{digits.WEIGHTS}.manifest.json", place / "vision.safetensors.manifest.json")
    torch.save({"state_dict": state, "x": _RunsCode()}, place / "unsafe.pt")
    (place / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    model.visual.transformer.resblocks[2].mlp.c_fc.weight.data[2, 3] += 0.1
    manifest.save(model, place / "next.safetensors", golden=False)
    for folder, name in (("one", "signed"), ("other", "next")):
        (place / folder).mkdir()
        for ending in ("", ".manifest.json"):
            shutil.copy(f"{place}/{name}.safetensors{ending}", f"{place}/{folder}/last.safetensors{ending}")
    shutil.copy(place / "digits.safetensors", place / "other" / "first.safetensors")
    return place


def _with_another_activation(path: Path, copy: Path) -> None:
    """A copy whose manifest says GELU of a model that was trained with QuickGELU."""
    shutil.copy(path, copy)
    content = json.loads(Path(f"{path}.manifest.json").read_text(encoding="utf-8"))
    content["checkpoint"]["files"][0]["path"] = copy.name
    content["architecture"]["config"]["quick_gelu"] = False
    content["architecture"]["activations"] = {"visual": {"GELU": 4}, "text": {"GELU": 2}}
    Path(f"{copy}.manifest.json").write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def command(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `manifest …` prints: to a terminal of so many columns, or into a pipe."""
    monkeypatch.chdir(place)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def call(words: str, columns: int | None = None, encoding: str = "utf-8", **environment: str) -> str:
        with monkeypatch.context() as now:
            for name, value in environment.items():
                now.setenv(name, value)
            now.setattr(sys, "argv", ["manifest", *words.split()])
            if columns is None:
                page = io.BytesIO()
                now.setattr(sys, "stdout", io.TextIOWrapper(page, encoding=encoding))
                _run()
                return page.getvalue().decode(encoding)
            now.setenv("COLUMNS", str(columns))
            with _terminal() as (screen, shown):
                now.setattr(sys, "stdout", screen)
                _run()
            return shown.getvalue().decode().replace("\r\n", "\n")

    return call


def _run() -> None:
    with pytest.raises(SystemExit):
        main()


@contextmanager
def _terminal() -> Iterator[tuple[io.TextIOWrapper, io.BytesIO]]:
    """A terminal to print to, and what was printed to it in the end."""
    master, slave = pty.openpty()
    shown = io.BytesIO()

    def read() -> None:
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # EIO: the other end has closed
                return
            if not part:
                return
            shown.write(part)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as screen:
        yield screen, shown
    reader.join()
    os.close(master)


def unstyled(text: str) -> str:
    return _STYLE.sub("", text)


def settled(text: str) -> str:
    """With zeros for what differs between two runs, and escape sequences that can be read."""
    text = _STYLE.sub(lambda found: f"<{found[1]}>", text)
    for changing, fixed in _CHANGING:
        text = changing.sub(fixed, text)
    return text


@pytest.mark.parametrize("case", CASES)
def test_output_is_that_of_the_snapshot(case: str, command: Callable[..., str], pytestconfig: pytest.Config) -> None:
    words = CASES[case]
    coloured = {width: command(words, width) for width in WIDTHS}
    page = "".join(
        f"=== {how}\n{settled(text)}"
        for how, text in (
            *((f"{width} columns", unstyled(text)) for width, text in coloured.items()),
            ("80 columns, in colour", coloured[80]),
            ("in a pipe", command(words)),
            ("in a pipe, in ASCII", command(words, encoding="ascii")),
        )
    )
    page = f"$ manifest {words}\n{page}"
    file = SNAPSHOTS / f"{case}.txt"
    if pytestconfig.getoption("--snapshots-written"):
        file.write_text(page, encoding="utf-8")
    assert page == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", [case for case, words in CASES.items() if words.startswith(("show", "audit", "diff"))])
def test_line_is_no_wider_than_the_terminal_and_ends_in_no_blank(case: str, command: Callable[..., str]) -> None:
    for width in (40, *WIDTHS):
        for line in unstyled(command(CASES[case], width)).splitlines():
            assert len(line) <= width
            assert line == line.rstrip()
    assert all(line == line.rstrip() for line in command(CASES[case]).splitlines())


def test_colours_can_be_read_on_a_dark_and_on_a_light_background(command: Callable[..., str]) -> None:
    """No black, no white, and nothing bright is a foreground; a background is never set."""
    used = set()
    for words in CASES.values():
        if "--key" not in words:
            for codes in _STYLE.findall(command(words, 80)):
                used |= {int(code) for code in codes.split(";") if code}
    assert used <= {0, 1, 2, 3, 31, 32, 33, 36, 39}, "0 to 3: plain, bold, dim, italic"
    assert 31 in used


def test_no_color_takes_the_colours_and_nothing_else(command: Callable[..., str]) -> None:
    words = CASES["audit_unsafe"]
    without = command(words, 80, NO_COLOR="1")
    assert settled(unstyled(without)) == settled(unstyled(command(words, 80)))
    assert not {code for codes in _STYLE.findall(without) for code in codes.split(";")} & set(map(str, range(30, 48)))
    forced = command(words, FORCE_COLOR="1")
    assert settled(unstyled(forced)) == settled(command(words))
    assert _STYLE.search(forced)


def test_locale_without_unicode_is_written_in_ascii(place: Path, run_process: Callable[..., Any]) -> None:
    ascii_alone = (SNAPSHOTS / "audit_unsafe.txt").read_text(encoding="utf-8").partition("=== in a pipe, in ASCII\n")[2]
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        answer = run_process("audit", place / "unsafe.pt", **environment)
        assert settled(answer.out) == ascii_alone
    assert "→ Take the weights alone" in run_process("audit", place / "unsafe.pt", LC_ALL="C").out

"""The page on pushing and pulling: its commands print what it shows, and its program runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import manifest
from tests.docs.pages import ROOT, blocks, commands, prints
from tests.hub.server import Hub

PAGE = ROOT / "docs" / "howto" / "hub.md"


def test_page_when_it_is_followed_then_everything_is_as_it_says(hub: Hub, here: Path, digits_model: Any) -> None:
    manifest.save(digits_model, here / "ckpt.pt", key=here / "release.key")
    done = 0
    for block in blocks(PAGE):
        if block.language == "python":
            subprocess.run([sys.executable, "-c", block.text], cwd=here, check=True, capture_output=True)
            continue
        for command, expected in commands(block):
            program, *words = command.split()
            assert program == "manifest"
            process = [sys.executable, "-m", "manifest", *words]
            answer = subprocess.run(process, cwd=here, capture_output=True, text=True, check=False)
            assert (answer.returncode, answer.stderr) == (0, "")
            assert prints(answer.stdout, expected), answer.stdout
            done += 1
    assert done == 2
    assert len(hub.repository("acme/digits").commits) == 3

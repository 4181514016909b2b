"""The tutorial, as its reader follows it: commands in a shell, and one session of Python."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT, blocks, commands, prints


class Reader:
    """Somebody who follows a page.

    Attributes:
        folder: Where they are.
        session: The names of their session of Python.
        printed: What its last block printed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.session: dict[str, Any] = {}
        self.printed = ""

    def types(self, command: str) -> str:
        """What a command prints, by the programs of this Python; the folder that it changes to is kept."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        whole = f"{command}\ncode=$?; pwd >&3; exit $code"
        place = self.folder / ".place"
        done = subprocess.run(
            ["bash", "-c", f"{{ {whole}; }} 3>{place}"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode in (0, 1), done.stderr
        self.folder = Path(place.read_text().strip())
        return done.stdout

    def runs(self, code: str) -> None:
        """Run a block of Python in the folder."""
        output = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(output):
            exec(compile(code, "tutorial", "exec"), self.session)
        self.printed = output.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_tutorial_when_it_is_followed_then_everything_is_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    reader = Reader(tmp_path)
    for block in blocks(ROOT / "docs" / "tutorial.md"):
        if block.language == "python":
            reader.runs(block.text)
        elif block.language == "text":
            assert prints(reader.printed, block.text), f"{reader.printed}\n\nbut the page shows\n\n{block.text}"
        else:
            assert block.language == "console"
            for command, output in commands(block):
                printed = reader.types(command)
                assert prints(printed, output), f"$ {command}\n{printed}\n\nbut the page shows\n\n{output}"

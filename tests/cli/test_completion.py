"""Completion in a shell: commands, options, and what an option may be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = Path(sys.executable).with_name("manifest")
pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or not MANIFEST.exists(), reason="needs bash and the installed command"
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ver", {"verify"}),
        ("verify --fa", {"--fast", "--fail-on"}),
        ("audit --format sa", {"sarif"}),
        ("policy ", {"check", "example"}),
    ],
)
def test_bash_completes_what_there_is(words: str, found: set[str]) -> None:
    line = f"manifest {words}".split(" ")
    program = (
        'eval "$(_MANIFEST_COMPLETE=source_bash manifest)"\n'
        f"COMP_WORDS=({' '.join(word or repr('') for word in line)}); COMP_CWORD={len(line) - 1}\n"
        '_manifest_completion manifest; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{MANIFEST.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found <= set(done.stdout.split())

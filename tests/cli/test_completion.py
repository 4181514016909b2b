"""Completion in real shells, installed by `manifest --install-completion`: commands, options, values, and files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MANIFEST = Path(sys.executable).with_name("manifest")
ROOT = Path(__file__).parents[2]
PROMPT = "ready> "
SECONDS = 60  # on a machine that does much else

pytestmark = pytest.mark.skipif(not MANIFEST.exists(), reason="the command `manifest` is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of somebody with an empty home, where `manifest` is this checkout's."""
    (tmp_path / "ckpt.pt").touch()
    path = f"{MANIFEST.parent}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "TERM": "xterm", "LANG": "C.UTF-8"}


def installed(shell: str, environment: dict[str, str]) -> None:
    """Install completion from inside a shell, which `manifest` finds out by itself."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = "manifest --install-completion; true"  # the last command of some shells takes their place
    done = subprocess.run(
        [shell, "-c", program], env=environment, cwd=environment["HOME"], capture_output=True, text=True, check=True
    )
    assert f"{shell} completion installed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ver", {"verify"}),
        ("verify --fa", {"--fast", "--fail-on"}),
        ("audit --format sa", {"sarif"}),
        ("policy ", {"check", "example"}),
    ],
)
def test_bash_completes_what_there_is(words: str, found: set[str], environment: dict[str, str]) -> None:
    installed("bash", environment)
    line = f"manifest {words}".split(" ")
    program = (
        "source ~/.bashrc\n"
        f"COMP_WORDS=({' '.join(word or repr('') for word in line)}); COMP_CWORD={len(line) - 1}\n"
        '_manifest_completion manifest; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert found <= set(done.stdout.split())


def test_fish_completes_what_there_is(environment: dict[str, str]) -> None:
    installed("fish", environment)
    for words, found in (
        ("ver", {"verify"}),
        ("verify --fa", {"--fast", "--fail-on"}),
        ("audit --format sa", {"sarif"}),
        ("verify ck", {"ckpt.pt"}),
    ):
        program = f'complete --do-complete "manifest {words}"'
        done = subprocess.run(
            ["fish", "-c", program],
            env=environment,
            cwd=environment["HOME"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert {line.partition("\t")[0] for line in done.stdout.splitlines()} == found


@pytest.fixture
def zsh(environment: dict[str, str]) -> Iterator[int]:
    """A terminal with zsh, as somebody types into it."""
    installed("zsh", environment)
    process, terminal = pty.fork()
    if process == 0:
        try:
            os.chdir(environment["HOME"])
            os.execvpe("zsh", ["zsh", "-i"], environment | {"PS1": PROMPT})
        finally:
            os._exit(127)  # it was not started, and this process must not go on with the tests
    assert appears(terminal, PROMPT)
    yield terminal
    os.close(terminal)  # which hangs up
    os.waitpid(process, 0)


def test_zsh_completes_what_there_is(zsh: int) -> None:
    os.write(zsh, b"manifest ver\t")
    appears(zsh, "manifest verify ", seconds=2)  # the first time that the key is pressed may only load the completion
    for typed, shown in (
        ("\x15manifest ver\t", "manifest verify "),
        ("--fas\t", "--fast "),
        ("ck\t", "ckpt.pt "),
        ("\x15manifest audit --format sa\t", "--format sarif "),
    ):
        os.write(zsh, typed.encode())
        assert appears(zsh, shown)


def appears(terminal: int, text: str, *, seconds: float = SECONDS) -> bool:
    """Whether a text comes up in a terminal in some seconds, whatever its style."""
    shown, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 4096)
        if text in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\x08|\x07", "", shown.decode(errors="replace")):
            return True
    return False

"""The peers, each installed into an environment of its own with the versions that `peers/NAME.txt` pins.

They lie in `.venv-peers/`, stay there between runs, and are installed anew when the pins change.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PINS = Path(__file__).with_name("peers")
_ENVIRONMENTS = _ROOT / ".venv-peers"
_MARK = "installed.txt"


class PeerError(Exception):
    """A peer cannot be had here; the sentence says why."""


def environment(name: str) -> Path:
    """The directory of programs of a peer's own environment, installed when it is missing.

    Raises:
        PeerError: It cannot be installed here.
    """
    pins, place = _PINS / f"{name}.txt", _ENVIRONMENTS / name
    if not is_installed(name):
        _install(name, pins, place)
        shutil.copy(pins, place / _MARK)
    return place / "bin"


def is_installed(name: str) -> bool:
    """Whether a peer is there with the versions that are pinned."""
    mark = _ENVIRONMENTS / name / _MARK
    return mark.exists() and mark.read_bytes() == (_PINS / f"{name}.txt").read_bytes()


def version_of(name: str) -> str:
    """The version of a peer that is pinned."""
    package = name.replace("_", "-")
    lines = (_PINS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def _install(name: str, pins: Path, place: Path) -> None:
    log = place.with_name(f"{name}.log")
    log.parent.mkdir(exist_ok=True)
    options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    commands = (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(place / "bin" / "pip"), "install", *options, "--requirement", str(pins)],
    )
    with log.open("w", encoding="utf-8") as file:
        for command in commands:
            if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
                raise PeerError(
                    f"{name} cannot be installed here with the versions of {pins.relative_to(_ROOT)}; "
                    f"{log.relative_to(_ROOT)} says why."
                )

"""Starting the commands that read little, as whole processes with the bytecode kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from measuring import INSIDE, MANIFEST, imports_torch, in_turn, run, seconds_of, seconds_said_by
from place import Place
from table import Row, quick, spends, within

_TRAINED = Path(__file__).parents[1] / "fixtures" / "digits_clip" / "digits_clip.safetensors"


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Seconds of processors from the start of a command to its end, of small files, and whether torch is imported."""
    trained = place.directory / "small" / _TRAINED.name
    trained.parent.mkdir()
    for name in (_TRAINED.name, f"{_TRAINED.name}.manifest.json"):
        shutil.copy(_TRAINED.with_name(name), trained.with_name(name))
    private, public = place.keys
    run([*MANIFEST, "sign", trained, "--key", private])
    trusted = trained.with_name("trust.yaml")
    run([*MANIFEST, "trust", "add", "release", public, "--trust", trusted])
    for arguments, limit in (
        (["--help"], 0.12),
        (["--version"], 0.10),
        (["show", trained], 0.25),
        (["verify", "--fast", trained, "--key", public], 0.30),
        (["verify", "--fast", trained], 0.30),
        (["audit", trained], 0.35),
    ):
        command = [*MANIFEST, *arguments]
        words = " ".join(str(each) for each in arguments if not isinstance(each, Path))
        size = f" of {trained.stat().st_size / 1e6:.0f} MB" if trained in arguments else ""
        yield spends(f"manifest {words}{size}, whole process", seconds_of(command), runs, limit)
        torch = imports_torch(command)
        yield Row("the same, torch", "imported" if torch else "not imported", "", "", "not imported", not torch)
    verify = [*MANIFEST, "verify", "--fast", trained]
    pair = in_turn(seconds_of([*verify, "--trust", trusted]), seconds_of(verify), runs)
    yield within("manifest verify --fast with a trust file / without one, whole process", pair)
    by_itself = seconds_said_by([*INSIDE, "trust", trained, trusted])
    yield quick("what a trust file adds: reading it and checking one signature", by_itself, runs, 0.05)

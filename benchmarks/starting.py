"""Starting the commands that read little, as whole processes with the bytecode kept."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from measuring import INSIDE, MANIFEST, imported_by, in_turn, run, seconds_of, seconds_said_by
from place import Place
from table import Row, quick, spends, spends_within, within

_TRAINED = Path(__file__).parents[1] / "fixtures" / "digits_clip" / "digits_clip.safetensors"


_IMPORT = """
import sys
from contextlib import suppress
from importlib import import_module
for name in sys.argv[1:]:
    with suppress(ModuleNotFoundError):  # what was looked for in vain
        import_module(name)
"""


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
        modules = imported_by(command)
        yield Row("the same, torch", *_whether("torch" in modules))
        alone = [sys.executable, "-c", _IMPORT, *filter(_is_of_a_library, modules)]
        yield spends_within(
            "the same / importing its libraries alone", in_turn(seconds_of(command), seconds_of(alone), runs)
        )
    verify = [*MANIFEST, "verify", "--fast", trained]
    pair = in_turn(seconds_of([*verify, "--trust", trusted]), seconds_of(verify), runs)
    yield within("manifest verify --fast with a trust file / without one, whole process", pair)
    by_itself = seconds_said_by([*INSIDE, "trust", trained, trusted])
    yield quick("what a trust file adds: reading it and checking one signature", by_itself, runs, 0.05)


def _whether(imported: bool) -> tuple[str, str, str, str, bool]:
    return "imported" if imported else "not imported", "", "", "not imported", not imported


def _is_of_a_library(module: str) -> bool:
    return module.partition(".")[0] not in {*sys.stdlib_module_names, "manifest", "sitecustomize", "usercustomize"}

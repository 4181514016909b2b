"""Signing, verifying and auditing, beside other programs that do the like with the same files.

Each peer is installed into an environment of its own; one that cannot be is said to be not measured. What peers make
of hostile files is counted by `judging.py`, and loading and saving are measured beside theirs in `loading.py`,
`saving.py` and `reading.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from installing import PeerError, environment, version_of
from measuring import MANIFEST, in_turn, seconds_of
from place import Place, gigabytes
from table import Row, not_measured, within

_Command = Sequence[str | Path]
_FICKLING = Path(__file__).with_name("fickling_scan.py")


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Whole processes of both."""
    private, public = place.keys
    signed = place.signed
    hashes = {
        "sha256sum": lambda: [_program("sha256sum"), signed],
        "b3sum": lambda: [_program("b3sum"), signed],
    }
    signature = place.directory / "peer.sig"
    signing = [signed.parent, "--signature", signature]
    sign = {
        **hashes,
        # Last: what it has signed, signature of ours and all, it is to find unchanged when it verifies.
        "model_signing sign": lambda: [*_model_signing(), "sign", "key", *signing, "--private_key", private],
    }
    verify = {
        "model_signing verify": lambda: [*_model_signing(), "verify", "key", *signing, "--public_key", public],
        **hashes,
    }
    size = gigabytes(signed)
    yield from _beside(f"sign of {size}", [*MANIFEST, "sign", signed, "--key", private], sign, runs)
    yield from _beside(
        f"verify --fast of {size}", [*MANIFEST, "verify", "--fast", signed, "--key", public], verify, runs
    )
    for path in (place.bare("bare.pt", "float32"), place.many[0]):
        for options in ([], ["--fast"]):
            what = " ".join(["audit", *options, "of", gigabytes(path), path.suffix])
            command = [*MANIFEST, "audit", path, *options, "--output", place.directory / "audit.txt"]
            yield from _beside(what, command, _scanners(path), runs, found=True)


def _beside(
    what: str, ours: _Command, theirs: dict[str, Callable[[], _Command]], runs: int, *, found: bool = False
) -> Iterator[Row]:
    """A command of this program beside each of some others, which may all have `found` something."""
    for name, command in theirs.items():
        title = f"{what}, whole process / {name}"
        try:
            yield within(title, in_turn(seconds_of(ours, found=found), seconds_of(command(), found=found), runs))
        except PeerError as error:
            yield not_measured(title, str(error))
        except RuntimeError as error:
            yield not_measured(title, str(error).splitlines()[-1])


def _scanners(path: Path) -> dict[str, Callable[[], _Command]]:
    """What scans a file, by the name of the program and its version."""
    return {
        f"picklescan {version_of('picklescan')}": lambda: [environment("picklescan") / "picklescan", "--path", path],
        f"modelscan {version_of('modelscan')}": lambda: [environment("modelscan") / "modelscan", "--path", path],
        f"fickling {version_of('fickling')}": lambda: [environment("fickling") / "python", _FICKLING, "default", path],
    }


def _model_signing() -> _Command:
    return [environment("model_signing") / "python", "-m", "model_signing"]


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerError(f"{name} is not installed here.")
    return found

"""What one checkpoint costs a worker that has started already: what `estimate.py` reckons with.

Processors' seconds and bytes are of a common model, ViT-L-14 with golden outputs, and of many small files in one
process. The web server is on this machine: of a distant one, the round trips are to be added.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from measuring import MANIFEST, run, seconds_of
from place import Place
from table import Row, spent

sys.path.append(str(Path(__file__).parents[1]))
from tests.remote.servers import Server, serving, slow

AUDIT_AFAR = "audit --fast at an address"
VERIFY_AFAR = "verify --fast at an address"
AUDIT_MANY = "audit --fast of small files, in one process"
VERIFY_MANY = "verify --fast of small files, in one process"
VERIFY_FAST = "verify --fast of a common model"
VERIFY = "verify of a common model, golden outputs and all"
VERIFY_BOTH = "verify of it in two containers, in one process"
AUDIT_ONE = "audit --fast of one small file, whole process"
VERIFY_ONE = "verify --fast of one small file, whole process"

_DELAY = 0.2  # seconds


def rows(place: Place, runs: int) -> Iterator[Row]:
    """Whole processes; what is found is what `estimate.py` reads, with its unit."""
    many, output = place.many, place.directory / "rates.txt"
    library, name = place.sizes.reckoned
    both = place.common(library, name)
    large = both[".safetensors"]
    small, common = f"timm resnet10t, {_megabytes(many[0])}", f"{library} {name}, {_megabytes(large)}"
    for what, files, model, arguments in (
        (AUDIT_ONE, 1, small, ["audit", many[0], "--fast"]),
        (AUDIT_MANY, len(many), small, ["audit", *many, "--fast"]),
        (VERIFY_ONE, 1, small, ["verify", many[0], "--fast", "--key", place.keys[1]]),
        (VERIFY_MANY, len(many), small, ["verify", *many, "--fast", "--key", place.keys[1]]),
        (VERIFY_FAST, 1, common, ["verify", large, "--fast"]),
        (VERIFY, 1, common, ["verify", large]),
        (VERIFY_BOTH, 2, common, ["verify", *both.values()]),
    ):
        command = seconds_of([*MANIFEST, *arguments, "--output", output], found=True)
        yield spent(f"{what}: {files} × {model}", command, runs, files)
    with serving(large.parent) as server:
        address = f"{server.address}/{large.name}"
        for what, arguments in (
            (AUDIT_AFAR, ["audit", address, "--fast"]),
            (VERIFY_AFAR, ["verify", address, "--fast"]),
        ):
            yield from _afar(f"{what}: 1 × {common}", server, [*MANIFEST, *arguments, "--output", output], runs)


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.0f} MB"


def _afar(title: str, server: Server, command: list[str | Path], runs: int) -> Iterator[Row]:
    """What a command takes and asks for; a server that waits tells how many answers are waited for one by one."""
    yield spent(title, seconds_of(command, found=True), runs, 1)
    took = []
    at_once = server.fault
    for server.fault in (at_once, slow(_DELAY)):
        server.asked.clear()
        took.append(run(command, found=True).seconds)
    server.fault = at_once
    sent = sum(end - start for _, start, end in server.asked)
    read, rounds = f"{sent / 1e6:.2f} MB", f"{max(0.0, took[1] - took[0]) / _DELAY:.1f}"
    yield Row(f"{title}, bytes", read, "", f"{read} read")
    yield Row(f"{title}, requests", f"{len(server.asked)}", "", f"{len(server.asked)} requests")
    yield Row(f"{title}, answers waited for one by one", rounds, "", f"{rounds} round trips")
